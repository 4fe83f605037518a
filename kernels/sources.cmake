# CUDA C++: one file per stage and dtype, so that they compile side by side.
target_sources(gdn PRIVATE
  ${CMAKE_CURRENT_LIST_DIR}/checked.cu
  ${CMAKE_CURRENT_LIST_DIR}/device.cu
  ${CMAKE_CURRENT_LIST_DIR}/portable/index.cu
  ${CMAKE_CURRENT_LIST_DIR}/portable/operator.cu
  ${CMAKE_CURRENT_LIST_DIR}/portable/plan.cu
  ${CMAKE_CURRENT_LIST_DIR}/portable/rows.cu)
foreach(dtype bf16 fp16)
  target_sources(gdn PRIVATE ${CMAKE_CURRENT_LIST_DIR}/portable/ends_${dtype}.cu)
endforeach()
foreach(stage prepare forward backward gradients)
  foreach(dtype bf16 fp16 fp32)
    target_sources(gdn PRIVATE ${CMAKE_CURRENT_LIST_DIR}/portable/${stage}_${dtype}.cu)
  endforeach()
endforeach()
