target_sources(gdn PRIVATE
  ${CMAKE_CURRENT_LIST_DIR}/backward.c
  ${CMAKE_CURRENT_LIST_DIR}/forward.c
  ${CMAKE_CURRENT_LIST_DIR}/recurrence.c
  ${CMAKE_CURRENT_LIST_DIR}/reference.c
  ${CMAKE_CURRENT_LIST_DIR}/segment.c)
