-- no query is planned by what stands in these: to sample 30,000 documents takes ANALYZE half a second, every half minute
ALTER TABLE overlay_events
    ALTER COLUMN raw_data SET STATISTICS 0,
    ALTER COLUMN normalized_data SET STATISTICS 0,
    ALTER COLUMN validation_issues SET STATISTICS 0,
    ALTER COLUMN certification_evidence SET STATISTICS 0,
    ALTER COLUMN overlay_distribution SET STATISTICS 0,
    ALTER COLUMN processing_agents SET STATISTICS 0;
ALTER TABLE event_versions
    ALTER COLUMN raw_data SET STATISTICS 0,
    ALTER COLUMN normalized_data SET STATISTICS 0,
    ALTER COLUMN validation_issues SET STATISTICS 0;
