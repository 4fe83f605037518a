# The device side of `gdn bench`: part of the command.
target_sources(gdn_cli PRIVATE
  ${CMAKE_CURRENT_LIST_DIR}/device.cu
  ${CMAKE_CURRENT_LIST_DIR}/inputs.cu
  ${CMAKE_CURRENT_LIST_DIR}/timer.cu)
target_include_directories(gdn_cli PRIVATE ${CMAKE_CURRENT_LIST_DIR})
target_link_libraries(gdn_cli PRIVATE CUDA::cudart_static)
