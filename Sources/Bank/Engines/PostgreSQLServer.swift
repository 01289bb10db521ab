import Core
import IO

/// A small PostgreSQL server: its data directory holds all its settings, so that whoever brings the directory back can
/// start it without asking us.
struct PostgreSQLServer {
  let facts: EngineFacts.PostgreSQL

  static func facts(in root: String, port: Int) throws -> EngineFacts.PostgreSQL {
    EngineFacts.PostgreSQL(
      host: "127.0.0.1", port: port, user: "bank", database: "bank", passwordFile: "\(root)/secrets/postgresql-bank",
      adminUser: "salvor", adminPasswordFile: "\(root)/secrets/postgresql-admin",
      dataDirectory: "\(root)/data/postgresql", binDirectory: try binDirectory(),
      runAs: try ServerUser.choose("postgres", "nobody"))
  }

  func up() throws {
    let user = try ServerUser(facts.runAs)
    try user.ownDirectory(facts.dataDirectory)
    let isNew = !Files.exists("\(facts.dataDirectory)/PG_VERSION")
    if isNew { try create(as: user) }
    if user.run(["\(facts.binDirectory)/pg_ctl", "status", "-D", facts.dataDirectory]) != 0 {
      try user.runChecked(
        ["\(facts.binDirectory)/pg_ctl", "start", "-w", "-s", "-D", facts.dataDirectory, "-l", logPath], log: commandLog
      )
    }
    try prepareDatabase()
  }

  func down() throws {
    let user = try ServerUser(facts.runAs)
    guard user.run(["\(facts.binDirectory)/pg_ctl", "status", "-D", facts.dataDirectory]) == 0 else { return }
    try user.runChecked(
      ["\(facts.binDirectory)/pg_ctl", "stop", "-w", "-s", "-m", "fast", "-D", facts.dataDirectory], log: commandLog)
  }

  private var root: String { Files.parent(of: Files.parent(of: facts.dataDirectory)) }
  private var logPath: String { "\(facts.dataDirectory)/server.log" }
  private var commandLog: String { "\(root)/log/postgresql-commands.log" }

  private func create(as user: ServerUser) throws {
    for path in [facts.passwordFile, facts.adminPasswordFile] {
      let password = Hex.encode(SystemRandomness().bytes(16))
      try Files.replace(path, with: Array("\(password)\n".utf8))
    }
    // initdb reads the password as the server's user, who can't enter `secrets`.
    let handed = "\(facts.dataDirectory).password"
    try Files.replace(handed, with: Files.read(facts.adminPasswordFile))
    defer { try? Files.removeTree(handed) }
    try user.own(handed)
    try user.runChecked(
      [
        "\(facts.binDirectory)/initdb", "-D", facts.dataDirectory, "-U", facts.adminUser, "--pwfile", handed,
        "--auth-host=scram-sha-256", "--auth-local=scram-sha-256", "--encoding=UTF8", "--locale=C", "--data-checksums",
        "--wal-segsize=1",
      ], log: commandLog)
    let settings = """

      # The bank's own.
      listen_addresses = '\(facts.host)'
      port = \(facts.port)
      unix_socket_directories = ''
      max_connections = 40
      shared_buffers = 32MB
      min_wal_size = 8MB
      max_wal_size = 64MB

      """
    let path = "\(facts.dataDirectory)/postgresql.conf"
    try Files.replace(path, with: Files.read(path) + Array(settings.utf8))
    try user.own(path)
  }

  /// The bank's role and database, if they are not there.
  private func prepareDatabase() throws {
    let admin = try PostgreSQLConnection(
      StoreSettings(
        kind: .postgresql, host: facts.host, port: facts.port, user: facts.adminUser, database: "postgres",
        passwordFile: facts.adminPasswordFile))
    if try admin.run("SELECT 1 FROM pg_roles WHERE rolname = $1", .text(facts.user)).isEmpty {
      let password = try PostgreSQLConnection.password(facts.passwordFile)
      // No parameters in such statements; ours is hexadecimal, or the statement is refused as a whole.
      guard Hex.decode(password) != nil else { throw BankError.configuration("\(facts.passwordFile) is not ours") }
      try admin.run("CREATE ROLE \(facts.user) LOGIN PASSWORD '\(password)'")
    }
    if try admin.run("SELECT 1 FROM pg_database WHERE datname = $1", .text(facts.database)).isEmpty {
      try admin.run("CREATE DATABASE \(facts.database) OWNER \(facts.user)")
    }
  }

  /// Where initdb and pg_ctl are: on the path, or where Debian keeps them, newest version first.
  private static func binDirectory() throws -> String {
    for directory in (getenv("PATH").map { String(cString: $0) } ?? "").split(separator: ":").map(String.init)
    where Files.exists("\(directory)/initdb") && Files.exists("\(directory)/pg_ctl") {
      return Files.parent(of: try Layout.absolute("\(directory)/initdb"))
    }
    let versions = ((try? Files.names(in: "/usr/lib/postgresql")) ?? []).compactMap { Int($0.lossyText) }.sorted(by: >)
    for version in versions where Files.exists("/usr/lib/postgresql/\(version)/bin/initdb") {
      return "/usr/lib/postgresql/\(version)/bin"
    }
    throw BankError.configuration("PostgreSQL's initdb and pg_ctl are not on the path nor below /usr/lib/postgresql")
  }
}

#if canImport(Glibc)
  import Glibc
#endif
