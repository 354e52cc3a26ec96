-- Which server got the most at a port, here 443, in the last seven days. After the same page.
SELECT dstaddr, sum(packets) AS packets, sum(bytes) AS bytes, count(DISTINCT srcaddr) AS clients
FROM vpc_flow_logs
WHERE dstport = 443 AND from_unixtime(start) > current_timestamp - interval '7' day
GROUP BY dstaddr
ORDER BY packets DESC, dstaddr
LIMIT 10
