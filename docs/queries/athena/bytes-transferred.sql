-- All that was sent between two addresses, either way. After VpcFlowLogsTotalBytesTransferred.
SELECT least(srcaddr, dstaddr) AS one, greatest(srcaddr, dstaddr) AS other, sum(bytes) AS bytes
FROM vpc_flow_logs
WHERE log_status = 'OK'
GROUP BY 1, 2
ORDER BY bytes DESC, one, other
LIMIT 50
