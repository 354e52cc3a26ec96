-- Connections that were asked for and never answered: a SYN (2) out, no SYN-ACK (18) back in the same hour.
SELECT asked.srcaddr, asked.dstaddr, asked.dstport, count(*) AS records
FROM vpc_flow_logs AS asked
LEFT JOIN vpc_flow_logs AS answered
    ON answered.srcaddr = asked.dstaddr AND answered.dstaddr = asked.srcaddr
    AND answered.srcport = asked.dstport AND answered.dstport = asked.srcport AND answered.protocol = 6
    AND answered.start BETWEEN asked.start - 3600 AND asked.start + 3600
WHERE asked.protocol = 6 AND asked.tcp_flags = 2 AND answered.srcaddr IS NULL
GROUP BY asked.srcaddr, asked.dstaddr, asked.dstport
ORDER BY records DESC, asked.srcaddr, asked.dstaddr, asked.dstport
LIMIT 50
