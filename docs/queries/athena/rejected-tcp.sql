-- Refused connections by day. After the example of the user guide's page vpc-flow-logs-create-table-statement.
SELECT date_trunc('day', from_unixtime(start)) AS day, interface_id, srcaddr, action, protocol, sum(packets) AS packets
FROM vpc_flow_logs
WHERE action = 'REJECT' AND protocol = 6
GROUP BY 1, 2, 3, 4, 5
ORDER BY packets DESC, srcaddr
LIMIT 100
