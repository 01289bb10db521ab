// DriverFiles
