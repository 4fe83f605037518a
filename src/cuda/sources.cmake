target_sources(gdn PRIVATE
  ${CMAKE_CURRENT_LIST_DIR}/cuda.c
  ${CMAKE_CURRENT_LIST_DIR}/layer_parts.c
  ${CMAKE_CURRENT_LIST_DIR}/memory.c
  ${CMAKE_CURRENT_LIST_DIR}/model_parts.c
  ${CMAKE_CURRENT_LIST_DIR}/parts.c
  ${CMAKE_CURRENT_LIST_DIR}/sharding.c
  ${CMAKE_CURRENT_LIST_DIR}/steps.c)
