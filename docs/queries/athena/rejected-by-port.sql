-- At which ports the firewall refuses, and how many ask.
SELECT protocol, dstport, sum(packets) AS packets, count(DISTINCT srcaddr) AS sources
FROM vpc_flow_logs
WHERE action = 'REJECT'
GROUP BY protocol, dstport
ORDER BY packets DESC, protocol, dstport
LIMIT 50
