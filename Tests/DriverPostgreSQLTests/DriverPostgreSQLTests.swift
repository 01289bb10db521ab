// DriverPostgreSQLTests
