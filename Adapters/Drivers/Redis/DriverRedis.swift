// DriverRedis
