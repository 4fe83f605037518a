# CUDA C++: one file per stage and dtype, so that they compile side by side; object libraries, which tests
# of single stages link too.
add_library(gdn_portable OBJECT
  ${CMAKE_CURRENT_LIST_DIR}/checked.cu
  ${CMAKE_CURRENT_LIST_DIR}/device.cu
  ${CMAKE_CURRENT_LIST_DIR}/layer/conv1d.cu
  ${CMAKE_CURRENT_LIST_DIR}/layer/gate.cu
  ${CMAKE_CURRENT_LIST_DIR}/layer/gated_rmsnorm.cu
  ${CMAKE_CURRENT_LIST_DIR}/layer/l2norm.cu
  ${CMAKE_CURRENT_LIST_DIR}/model/cross_entropy.cu
  ${CMAKE_CURRENT_LIST_DIR}/model/embedding.cu
  ${CMAKE_CURRENT_LIST_DIR}/model/optimizer.cu
  ${CMAKE_CURRENT_LIST_DIR}/model/product.cu
  ${CMAKE_CURRENT_LIST_DIR}/model/rmsnorm.cu
  ${CMAKE_CURRENT_LIST_DIR}/model/swiglu.cu
  ${CMAKE_CURRENT_LIST_DIR}/portable/index.cu
  ${CMAKE_CURRENT_LIST_DIR}/portable/operator.cu
  ${CMAKE_CURRENT_LIST_DIR}/portable/plan.cu
  ${CMAKE_CURRENT_LIST_DIR}/portable/rows.cu
  ${CMAKE_CURRENT_LIST_DIR}/sharding.cu
  ${CMAKE_CURRENT_LIST_DIR}/steps.cu
  ${CMAKE_CURRENT_LIST_DIR}/sums.cu)
foreach(dtype bf16 fp16)
  target_sources(gdn_portable PRIVATE ${CMAKE_CURRENT_LIST_DIR}/portable/ends_${dtype}.cu)
endforeach()
foreach(stage prepare forward backward gradients)
  foreach(dtype bf16 fp16 fp32)
    target_sources(gdn_portable PRIVATE ${CMAKE_CURRENT_LIST_DIR}/portable/${stage}_${dtype}.cu)
  endforeach()
endforeach()

# The Hopper kernels use instructions that only sm_90a has; launch code checks the device.
add_library(gdn_hopper OBJECT
  ${CMAKE_CURRENT_LIST_DIR}/common/tensor_map.cu
  ${CMAKE_CURRENT_LIST_DIR}/hopper/chains/launch.cu
  ${CMAKE_CURRENT_LIST_DIR}/hopper/forward/launch.cu
  ${CMAKE_CURRENT_LIST_DIR}/hopper/fused/launch.cu
  ${CMAKE_CURRENT_LIST_DIR}/hopper/gradients/launch.cu
  ${CMAKE_CURRENT_LIST_DIR}/hopper/prepare/launch.cu
  ${CMAKE_CURRENT_LIST_DIR}/hopper/scan/launch.cu)
set_target_properties(gdn_hopper PROPERTIES CUDA_ARCHITECTURES 90a-real)
foreach(part gdn_portable gdn_hopper)
  target_include_directories(${part} PRIVATE ${CMAKE_CURRENT_LIST_DIR} ${PROJECT_SOURCE_DIR}/src)
  target_sources(gdn PRIVATE $<TARGET_OBJECTS:${part}>)
endforeach()
