target_sources(gdn PRIVATE ${CMAKE_CURRENT_LIST_DIR}/host.c)
