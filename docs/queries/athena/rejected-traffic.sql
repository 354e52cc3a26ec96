-- What the firewall refused, newest first. After VpcFlowLogsRejectedTraffic.
SELECT from_unixtime(start) AS since, interface_id, srcaddr, srcport, dstaddr, dstport, protocol, packets
FROM vpc_flow_logs
WHERE action = 'REJECT'
ORDER BY start DESC, srcaddr, srcport, dstaddr, dstport
LIMIT 100
