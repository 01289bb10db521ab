// DriverSQLite
