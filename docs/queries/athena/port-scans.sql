-- Who knocks at many ports or hosts and is refused, or gets no further than the first packet.
SELECT srcaddr, count(DISTINCT dstport) AS ports, count(DISTINCT dstaddr) AS hosts, sum(packets) AS packets
FROM vpc_flow_logs
WHERE protocol IN (6, 17) AND (action = 'REJECT' OR tcp_flags = 2)
GROUP BY srcaddr
ORDER BY ports DESC, hosts DESC, srcaddr
LIMIT 50
