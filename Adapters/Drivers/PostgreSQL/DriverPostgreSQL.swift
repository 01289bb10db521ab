// DriverPostgreSQL
