target_sources(gdn PRIVATE
  ${CMAKE_CURRENT_LIST_DIR}/compare.c
  ${CMAKE_CURRENT_LIST_DIR}/difference.c
  ${CMAKE_CURRENT_LIST_DIR}/evaluate.c
  ${CMAKE_CURRENT_LIST_DIR}/evaluate_layer.c
  ${CMAKE_CURRENT_LIST_DIR}/gradcheck_layer.c
  ${CMAKE_CURRENT_LIST_DIR}/gradcheck_operator.c
  ${CMAKE_CURRENT_LIST_DIR}/shapes.c
  ${CMAKE_CURRENT_LIST_DIR}/tolerance.c)
