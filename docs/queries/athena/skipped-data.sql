-- When records are missing: SKIPDATA says that some of a window was not recorded. After the user guide's page on limits.
SELECT interface_id, log_status, count(*) AS windows, from_unixtime(min(start)) AS since, from_unixtime(max("end")) AS until
FROM vpc_flow_logs
WHERE log_status <> 'OK'
GROUP BY interface_id, log_status
ORDER BY log_status DESC, interface_id
