// DriverSQLiteTests
