-- From one address and to it, by peer and port. After VpcFlowLogsTrafficFrmSrcAddr and VpcFlowLogsTrafficToDstAddr.
SELECT CASE WHEN srcaddr = '10.77.0.1' THEN 'to' ELSE 'from' END AS way,
    CASE WHEN srcaddr = '10.77.0.1' THEN dstaddr ELSE srcaddr END AS peer,
    protocol, dstport, sum(packets) AS packets, sum(bytes) AS bytes
FROM vpc_flow_logs
WHERE srcaddr = '10.77.0.1' OR dstaddr = '10.77.0.1'
GROUP BY 1, 2, 3, 4
ORDER BY bytes DESC, peer, dstport
LIMIT 100
