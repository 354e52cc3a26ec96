-- Who sends the most to whom. After the user guide's predefined query VpcFlowLogsTopTalkers.
SELECT srcaddr, dstaddr, sum(bytes) AS bytes, sum(packets) AS packets
FROM vpc_flow_logs
WHERE log_status = 'OK'
GROUP BY srcaddr, dstaddr
ORDER BY bytes DESC, srcaddr, dstaddr
LIMIT 50
