# Headers, libraries, the command, the CMake package and pkg-config files.
set(gdn_targets gdn)
install(FILES src/gdn.h src/gdn_layer.h src/gdn_model.h src/gdn_check.h
  DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
if(GDN_HAVE_HDF5)
  list(APPEND gdn_targets gdn_io)
  install(FILES io/gdn_io.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
endif()
if(GDN_HAVE_MPI)
  list(APPEND gdn_targets gdn_dist)
  install(FILES dist/gdn_dist.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
endif()
install(TARGETS ${gdn_targets} EXPORT gdn-targets
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
  RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
if(TARGET gdn_cli)
  install(TARGETS gdn_cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()

set(gdn_package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/gdn)
install(EXPORT gdn-targets NAMESPACE gdn:: DESTINATION ${gdn_package_dir})
configure_package_config_file(cmake/gdn-config.cmake.in ${PROJECT_BINARY_DIR}/gdn-config.cmake
  INSTALL_DESTINATION ${gdn_package_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/gdn-config-version.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/gdn-config.cmake ${PROJECT_BINARY_DIR}/gdn-config-version.cmake
  DESTINATION ${gdn_package_dir})

foreach(target ${gdn_targets})
  configure_file(cmake/${target}.pc.in ${PROJECT_BINARY_DIR}/${target}.pc @ONLY)
  install(FILES ${PROJECT_BINARY_DIR}/${target}.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
endforeach()
