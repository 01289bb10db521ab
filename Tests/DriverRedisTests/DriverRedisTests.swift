// DriverRedisTests
