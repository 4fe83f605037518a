target_sources(gdn PRIVATE)
