import ArgumentParser
import Core
import IO

struct Engines: ParsableCommand {
  static let configuration = CommandConfiguration(
    abstract: "Run servers of the bank's own on loopback: PostgreSQL, Redis, MariaDB and NATS.",
    subcommands: [Up.self, Down.self])

  struct Up: ParsableCommand {
    static let configuration = CommandConfiguration(
      abstract: "Create what is missing, start what is stopped, and write engines.json.")

    @Option(help: "The bank's directory; made if missing.") var directory: String
    @Option(help: "PostgreSQL's port, for a new server.") var postgresqlPort: Int = 7110
    @Option(help: "Redis's port, for a new server.") var redisPort: Int = 7111
    @Option(name: .customLong("mariadb-port"), help: "MariaDB's port, for a new server.") var mariaDBPort: Int = 7112
    @Option(help: "NATS' port, for a new server.") var natsPort: Int = 7113

    func run() throws {
      try Files.createDirectory(directory)
      let root = try Layout.absolute(directory)
      for name in ["data", "run", "log", "secrets"] {
        try Files.createDirectory("\(root)/\(name)", mode: name == "secrets" ? 0o700 : 0o755)
      }
      let facts =
        try EngineFacts.read(in: root)
        ?? EngineFacts(
          postgresql: PostgreSQLServer.facts(in: root, port: postgresqlPort),
          redis: RedisServer.facts(in: root, port: redisPort),
          mariadb: MariaDBServer.facts(in: root, port: mariaDBPort),
          nats: NATSServer.facts(in: root, port: natsPort))
      // Noted before anything is started, so that `down` finds what a failed `up` left running.
      try Files.replace(EngineFacts.path(in: root), with: CanonicalJSON.encode(facts, pretty: true), mode: 0o644)
      try PostgreSQLServer(facts: facts.postgresql).up()
      try RedisServer(facts: facts.redis).up()
      try MariaDBServer(facts: facts.mariadb).up()
      try NATSServer(facts: facts.nats).up()
    }
  }

  struct Down: ParsableCommand {
    static let configuration = CommandConfiguration(abstract: "Stop the servers; their data stays.")

    @Option(help: "The bank's directory.") var directory: String

    func run() throws {
      let root = try Layout.absolute(directory)
      guard let facts = try EngineFacts.read(in: root) else { return }
      try PostgreSQLServer(facts: facts.postgresql).down()
      try RedisServer(facts: facts.redis).down()
      try MariaDBServer(facts: facts.mariadb).down()
      try NATSServer(facts: facts.nats).down()
    }
  }
}
