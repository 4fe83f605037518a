target_sources(gdn PRIVATE
  ${CMAKE_CURRENT_LIST_DIR}/adamw.c
  ${CMAKE_CURRENT_LIST_DIR}/cross_entropy.c
  ${CMAKE_CURRENT_LIST_DIR}/embedding.c
  ${CMAKE_CURRENT_LIST_DIR}/grad_norm.c
  ${CMAKE_CURRENT_LIST_DIR}/linear.c
  ${CMAKE_CURRENT_LIST_DIR}/rmsnorm.c
  ${CMAKE_CURRENT_LIST_DIR}/swiglu.c)
