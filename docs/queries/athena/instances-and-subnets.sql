-- Which hosts and subnets have the most. After VpcFlowLogsTopTalkingInstances and VpcFlowLogsTopTalkingSubnets.
SELECT vpc_id, subnet_id, instance_id, interface_id, sum(bytes) AS bytes, sum(packets) AS packets
FROM vpc_flow_logs
WHERE log_status = 'OK'
GROUP BY vpc_id, subnet_id, instance_id, interface_id
ORDER BY bytes DESC, interface_id
LIMIT 50
