-- Whether interfaces report at all: records of each status.
SELECT interface_id, log_status, count(*) AS records, count(srcport) AS flows
FROM vpc_flow_logs
GROUP BY interface_id, log_status
ORDER BY interface_id, log_status
