-- How much it is, by hour and way.
SELECT date_trunc('hour', from_unixtime("end")) AS hour, flow_direction, sum(bytes) AS bytes, sum(packets) AS packets
FROM vpc_flow_logs
WHERE log_status = 'OK'
GROUP BY 1, 2
ORDER BY 1, 2
