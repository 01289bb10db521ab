import Testing

@testable import DriverMariaDB

@Suite("Positions of MariaDB members") struct MariaDBMemberTests {
  @Test(arguments: [("", 0), ("0-1-7", 7), ("3-4294967295-9223372036854775807", .max)] as [(String, Int64)])
  func `a log with one domain has a position`(_ text: String, _ sequence: Int64) {
    #expect(GTIDPosition(text)?.sequence == sequence)
  }

  @Test(arguments: ["0-1-7,1-1-9", "0-1", "0-1-x", "0-1-99999999999999999999"])
  func `one with several, or with none that can be read, has none`(_ text: String) {
    #expect(GTIDPosition(text) == nil)
  }
}
