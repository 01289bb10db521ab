// DriverContract
