-- The same by the addresses in the packets themselves (pkt-srcaddr, pkt-dstaddr): behind a NAT gateway or a load balancer
-- these differ. After VpcFlowLogsTopTalkersPacketLevel.
SELECT pkt_srcaddr, pkt_dstaddr, sum(bytes) AS bytes, sum(packets) AS packets
FROM vpc_flow_logs
WHERE log_status = 'OK'
GROUP BY pkt_srcaddr, pkt_dstaddr
ORDER BY bytes DESC, pkt_srcaddr, pkt_dstaddr
LIMIT 50
