-- Files that wait to be processed: few at any time.
create index files_processing on transom.files (complete_time) where state = 'UPLOADED';
