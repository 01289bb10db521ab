import Core
import DriverKit
import IO
import TestSupport
import Testing

@Suite("The exit door") struct ExitDoorTests {
  /// Cases that are run below; a block of another name would be nobody's.
  private static let cases: Set<String> = [
    "variables", "points", "check", "point", "files", "sqlite", "postgresql", "postgresql-check", "postgresql-dump",
    "redis", "mariadb",
    "mariadb-stop", "nats", "rabbitmq", "etcd",
  ]

  @Test func `every block of the page is a case`() throws {
    let page = try Page()
    #expect(page.unnamed.isEmpty, "shell blocks that no comment names")
    #expect(Set(page.blocks.keys) == Self.cases)
  }

  /// Everything a point holds, brought back by the page's own words, with no program of Salvor's.
  @Test(.timeLimit(.minutes(10)))
  func `the page brings every kind of store back`() async throws {
    let page = try Page()
    let system = try await AllStores.start()
    do {
      try await follow(page, system)
      await system.shutDown()
    } catch {
      await system.shutDown()
      throw error
    }
  }

  private func follow(_ page: Page, _ system: AllStores) async throws {
    let tree = try await AllStores.tree(system.documents)
    let database = try await AllStores.database(system.ledger)
    let rows = try await AllStores.cluster(port: "\(system.cluster.port)")
    let keys = try await AllStores.keys(port: "\(system.redis.port)")
    let goods = try await AllStores.goods(socket: system.maria.socket)
    let messages = try await AllStores.messages(port: "\(system.nats.port)")
    let settings = try await AllStores.settings(endpoint: system.etcd.endpoint)
    let point = try await system.takePoint()
    try await system.takeDump()
    try await system.goOn()

    // Where servers that refuse root can pass.
    let place = try TemporaryDirectory("exit-door-out")
    func run(_ cases: String..., store: String = "", destination: String = "", port: String = "") async throws -> String
    {
      let script = try (["variables"] + cases).map { try #require(page.blocks[$0]) }.joined()
      return try await AllStores.shell(
        script,
        environment: [
          "REPO": system.repository, "PASSWORD_FILE": system.passwordFile, "TARGET": place.file("target"),
          "POINT": point, "STORE": store, "DESTINATION": destination, "PORT": port, "HOME": place.path,
          "PGPASSWORD": PostgreSQLServer.password,
        ])
    }

    #expect(try await run("points").contains("point:\(point)"))
    #expect(try await run("check").contains("no errors were found"))
    let said = try await run("point")
    #expect(said.contains("\"id\" : \"\(point)\"") && said.contains("salvor.yaml"))

    _ = try await run("files", store: "documents", destination: place.file("documents"))
    #expect(try await AllStores.tree(place.file("documents")) == tree)

    _ = try await run("sqlite", store: "ledger", destination: place.file("ledger.db"))
    #expect(try await AllStores.database(place.file("ledger.db")) == database)
    await #expect(throws: CommandRun.Failed.self, "a file that is there is never replaced") {
      _ = try await run("sqlite", store: "ledger", destination: place.file("ledger.db"))
    }

    let redisPort = "\(try freePort())"
    _ = try await run("redis", store: "sessions", destination: place.file("sessions"), port: redisPort)
    let restored = try await AllStores.keys(port: redisPort)
    try await AllStores.shell("redis-cli -p \(redisPort) SHUTDOWN NOSAVE || true")
    #expect(restored == keys)

    let natsPort = "\(try freePort())"
    _ = try await run("nats", store: "orders", destination: place.file("orders"), port: natsPort)
    let orders = try? await AllStores.messages(port: natsPort)
    try await AllStores.shell("kill $(cat '\(place.file("orders"))/exit-door.pid')")
    #expect(orders == messages)

    let etcdPort = "\(try freePort())"
    let keysBack: String?
    do {
      _ = try await run("etcd", store: "settings", destination: place.file("settings"), port: etcdPort)
      keysBack = try await AllStores.settings(endpoint: "http://127.0.0.1:\(etcdPort)")
    } catch {
      try await AllStores.endListener(etcdPort)
      throw error
    }
    try await AllStores.endListener(etcdPort)
    #expect(keysBack == settings)

    _ = try await run("postgresql-dump", store: "entries", destination: "came back", port: "\(system.cluster.port)")
    #expect(try await AllStores.cluster(port: "\(system.cluster.port)", database: "came back") == rows)

    // Erlang's two ports are behind it.
    let rabbitPort = "\(try freePort())"
    let node = place.file(RabbitMQServer.node)
    var parcels = ""
    do {
      _ = try await run("rabbitmq", store: "parcels", destination: node, port: rabbitPort)
      parcels = try await AllStores.parcels(port: rabbitPort)
    } catch {
      try await endNode(rabbitPort)
      throw error
    }
    try await endNode(rabbitPort)
    #expect(parcels == (1...30).map { "parcels \($0)\n" }.joined())

    // At the path of a socket that is not too long for one.
    let shop = place.file("shop")
    do {
      _ = try await run("mariadb", store: "goods", destination: shop)
      #expect(try await AllStores.goods(socket: shop + "/exit-door.sock") == goods)
    } catch {
      _ = try? await run("mariadb-stop", destination: shop)
      throw error
    }
    _ = try await run("mariadb-stop", destination: shop)

    let data = place.file("cluster")
    do {
      let port = "\(try freePort())"
      _ = try await run("postgresql", store: "entries", destination: data, port: port)
      #expect(try await AllStores.cluster(port: port) == rows)
      _ = try await run("postgresql-check", destination: data, port: port)
      let control = try await AllStores.shell("\(PostgreSQLServer.program("pg_controldata")) -D \(data)")
      #expect(control.contains(/TimeLineID: +2\n/), "a timeline of its own")
      #expect(
        try !String(decoding: Files.read(data + "/postgresql.auto.conf"), as: UTF8.self).contains("restore_command"))
      let spaces = try Files.names(in: data + "/pg_tblspc").map(\.lossyText)
      #expect(spaces.count == 1)
      let link = try await AllStores.shell("readlink \(data)/pg_tblspc/*")
      #expect(link.hasPrefix(place.path), "not the live tablespace: \(link)")
    } catch {
      try await stop(data)
      throw error
    }
    try await stop(data)
  }

  /// The node, and the port mapper that it started.
  private func endNode(_ port: String) async throws {
    try await AllStores.endListener(port)
    guard let number = UInt16(port) else { return }
    for _ in 0..<1000 {
      guard await BlockingPool.shared.run({ ListeningProcess.isListening(port: number + 1) }) else { break }
      try await SystemTime().sleep(for: .milliseconds(50))
    }
    try await AllStores.endListener("\(number + 2)")
  }

  private func stop(_ data: String) async throws {
    guard Files.exists(data + "/postmaster.pid") else { return }
    try await PostgreSQLServer.command(
      PostgreSQLServer.program("pg_ctl"), ["-D", data, "-m", "fast", "-w", "stop"], asOwner: true)
  }
}
