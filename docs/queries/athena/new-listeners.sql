-- Ports that answer since a day and had not before: what somebody has started, or left open.
SELECT dstaddr, dstport, protocol, from_unixtime(min(start)) AS since, sum(packets) AS packets
FROM vpc_flow_logs
WHERE flow_direction = 'ingress' AND action = 'ACCEPT' AND protocol IN (6, 17) AND dstport < 32768
GROUP BY dstaddr, dstport, protocol
HAVING from_unixtime(min(start)) > current_timestamp - interval '1' day
ORDER BY since DESC, dstaddr, dstport
LIMIT 100
