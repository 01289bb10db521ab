import Core
import IO
import TestSupport
import Testing

@Suite("The command line, with servers that can't be had")
struct ServerTests {
  @Test(.timeLimit(.minutes(10)))
  func `PostgreSQL with its port closed, or another password`() async throws {
    let server = try await PostgreSQLServer.start()
    do {
      let site = try await Site { _ in
        var options = Site.Options()
        options.documents = Self.service(
          "core", "core-db",
          "postgresql: {dataDirectory: \"\(server.data)\", port: \(server.port), password: \"file:\(server.passwordFile)\"}"
        )
        return options
      }
      try await site.salvor("backup", "core-db", "-q", is: 0)
      try Files.replace(server.passwordFile, with: Array("wrong\n".utf8))
      try await site.refuses(
        "backup", "core-db", status: 1, code: "POINT-103", saying: ["core-db", "DRIVER-202", "secret reference"])
      try Files.replace(server.passwordFile, with: Array((PostgreSQLServer.password + "\n").utf8))
      try await server.stop()
      try await site.refuses(
        "backup", "core-db", status: 1, code: "POINT-103", saying: ["core-db", "DRIVER-201", String(server.port)])
    } catch {
      await server.shutDown()
      throw error
    }
    await server.shutDown()
  }

  @Test(.timeLimit(.minutes(10)))
  func `Redis with a wrong password, or gone`() async throws {
    var settings = RedisServer.Settings()
    settings.password = "right"
    let server = try RedisServer(settings)
    let site = try await Site { home in
      var options = Site.Options()
      options.documents = Self.service(
        "sessions", "sessions-db", "redis: {port: \(server.port), password: \"file:\(home)/redis-password\"}")
      return options
    }
    try site.write(site.home.file("redis-password"), "right\n")
    try await site.salvor("backup", "sessions-db", "-q", is: 0)
    try site.write(site.home.file("redis-password"), "wrong\n")
    let ran = try await site.refuses(
      "backup", "sessions-db", status: 1, code: "POINT-103", saying: ["sessions-db", "DRIVER-202", "secret reference"])
    #expect(!ran.err.contains("wrong\n") && !ran.err.contains("\"wrong\""), "no secret is shown: \(ran)")
    server.stop()
    try await site.refuses(
      "backup", "sessions-db", status: 1, code: "POINT-103", saying: ["sessions-db", "DRIVER-201", String(server.port)])
  }

  @Test(.timeLimit(.minutes(10)))
  func `an engine older than the captured one is refused before anything is touched`() async throws {
    let server = try RedisServer()
    let site = try await Site { home in
      var options = Site.Options()
      options.documents = Self.service(
        "sessions", "sessions-db", "redis: {port: \(server.port), binary: \"\(home)/redis-server\"}")
      return options
    }
    // The real one, until it says that it is another.
    try Files.replace(
      site.home.file("redis-server"), with: Array("#!/bin/sh\nexec redis-server \"$@\"\n".utf8), mode: 0o755)
    try await site.salvor("backup", "sessions-db", "-q", is: 0)
    try Files.replace(
      site.home.file("redis-server"), with: Array("#!/bin/sh\necho 'Redis server v=6.2.14 sha=0'\n".utf8), mode: 0o755)
    let ran = try await site.salvor("restore", "sessions", "--yes", "-q", is: 6)
    #expect(ran.out.contains("DRIVER-403") && ran.out.contains("6.2.14"), "\(ran)")
    #expect(server.pid != nil, "it still serves")
  }

  private static func service(_ name: String, _ store: String, _ driver: String) -> String {
    """
    ---
    apiVersion: salvor.dev/v1
    kind: Service
    metadata: {name: \(name)}
    spec: {stores: [{name: \(store), \(driver)}]}

    """
  }
}
