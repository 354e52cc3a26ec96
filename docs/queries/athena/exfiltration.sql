-- Where much more goes out than comes back, by destination.
SELECT peer, sum(bytes_out) AS bytes_out, sum(bytes_in) AS bytes_in
FROM (
    SELECT dstaddr AS peer, bytes AS bytes_out, 0 AS bytes_in
    FROM vpc_flow_logs
    WHERE flow_direction = 'egress' AND action = 'ACCEPT'
    UNION ALL
    SELECT srcaddr AS peer, 0 AS bytes_out, bytes AS bytes_in
    FROM vpc_flow_logs
    WHERE flow_direction = 'ingress' AND action = 'ACCEPT'
) AS both_ways
GROUP BY peer
HAVING sum(bytes_out) > 2 * sum(bytes_in)
ORDER BY bytes_out DESC, peer
LIMIT 50
