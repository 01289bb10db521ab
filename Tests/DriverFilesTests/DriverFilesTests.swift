// DriverFilesTests
