target_sources(gdn PRIVATE
  ${CMAKE_CURRENT_LIST_DIR}/conv1d.c
  ${CMAKE_CURRENT_LIST_DIR}/gate.c
  ${CMAKE_CURRENT_LIST_DIR}/gated_rmsnorm.c
  ${CMAKE_CURRENT_LIST_DIR}/l2norm.c
  ${CMAKE_CURRENT_LIST_DIR}/layer.c
  ${CMAKE_CURRENT_LIST_DIR}/part.c
  ${CMAKE_CURRENT_LIST_DIR}/plan.c
  ${CMAKE_CURRENT_LIST_DIR}/product.c)
