-- Accepted traffic to ports for administration. After VpcFlowLogsAdminPortTraffic and VpcFlowLogsSshRdpTraffic.
SELECT dstaddr, dstport, srcaddr, sum(packets) AS packets
FROM vpc_flow_logs
WHERE action = 'ACCEPT' AND protocol IN (6, 17) AND dstport IN (22, 23, 3389, 5900, 5985, 5986)
GROUP BY dstaddr, dstport, srcaddr
ORDER BY packets DESC, dstaddr, dstport, srcaddr
LIMIT 100
