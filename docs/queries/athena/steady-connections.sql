-- Peers that are there in every part of the time, minute by minute: backups, replication, and what calls home.
SELECT srcaddr, dstaddr, dstport, count(DISTINCT date_trunc('minute', from_unixtime(start))) AS minutes, sum(bytes) AS bytes
FROM vpc_flow_logs
WHERE log_status = 'OK' AND action = 'ACCEPT'
GROUP BY srcaddr, dstaddr, dstport
ORDER BY minutes DESC, bytes DESC, srcaddr, dstaddr, dstport
LIMIT 50
