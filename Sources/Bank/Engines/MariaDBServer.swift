import Core
import IO

/// A small MariaDB server with a binary log.
struct MariaDBServer {
  /// What a backup needs, and following the log.
  private static let rights = "RELOAD, PROCESS, LOCK TABLES, BINLOG MONITOR, REPLICATION SLAVE, SELECT"

  let facts: EngineFacts.MariaDB

  static func facts(in root: String, port: Int) throws -> EngineFacts.MariaDB {
    EngineFacts.MariaDB(
      host: "127.0.0.1", port: port, user: "bank", database: "bank", passwordFile: "\(root)/secrets/mariadb-bank",
      adminUser: "salvor", adminPasswordFile: "\(root)/secrets/mariadb-admin", dataDirectory: "\(root)/data/mariadb",
      configFile: "\(root)/config/mariadb.cnf", runAs: try ServerUser.choose("mysql", "nobody"))
  }

  func up() throws {
    let user = try ServerUser(facts.runAs)
    try user.ownDirectory(facts.dataDirectory)
    try Files.createDirectory(Files.parent(of: facts.configFile))
    for path in [facts.passwordFile, facts.adminPasswordFile] where !Files.exists(path) {
      try Files.replace(path, with: Array("\(Hex.encode(SystemRandomness().bytes(16)))\n".utf8))
    }
    if !Files.exists(facts.configFile) {
      try Files.replace(facts.configFile, with: Array(settings.utf8), mode: 0o644)
    }
    if !Files.exists("\(facts.dataDirectory)/mysql") {
      try user.runChecked(
        [
          "mariadb-install-db", "--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db",
          "--skip-name-resolve", "--innodb-log-file-size=\(Self.logFileSize)", "--datadir=\(facts.dataDirectory)",
          "--tmpdir=\(facts.dataDirectory)",
        ], log: commandLog)
    }
    if !answers {
      // It never leaves the foreground by itself.
      try user.runChecked(
        [
          "sh", "-c", "\"$0\" --defaults-file=\"$1\" </dev/null >/dev/null 2>&1 &", installedProgram("mariadbd"),
          facts.configFile,
        ], log: commandLog)
    }
    try waitUntil("mariadb at port \(facts.port) does not answer: see \(facts.dataDirectory)/server.log") { answers }
    try prepareDatabase()
  }

  func down() throws {
    guard let root = try? rootConnection() else { return }
    // The server may close the connection instead of answering.
    _ = try? root.run("SHUTDOWN")
    try waitUntil("mariadb at port \(facts.port) does not stop") { !Files.exists(pidFile) }
  }

  private static let logFileSize = "16M"
  private var root: String { Files.parent(of: Files.parent(of: facts.dataDirectory)) }
  private var commandLog: String { "\(root)/log/mariadb-commands.log" }
  private var socket: String { "\(facts.dataDirectory)/server.sock" }
  private var pidFile: String { "\(facts.dataDirectory)/server.pid" }

  /// Socket and temporary files are in the directory that nobody but the server's user can enter: root has no password.
  private var settings: String {
    """
    [mariadbd]
    datadir=\(facts.dataDirectory)
    tmpdir=\(facts.dataDirectory)
    socket=\(socket)
    pid-file=\(pidFile)
    log-error=\(facts.dataDirectory)/server.log
    bind-address=\(facts.host)
    port=\(facts.port)
    skip-name-resolve
    server-id=1
    log-bin=bin
    binlog-format=ROW
    sync-binlog=1
    innodb-flush-log-at-trx-commit=1
    innodb-buffer-pool-size=32M
    innodb-log-file-size=\(Self.logFileSize)
    performance-schema=0

    """
  }

  private func rootConnection() throws -> MariaDBConnection {
    try MariaDBConnection(
      host: facts.host, port: facts.port, socket: socket, user: "root", password: nil, database: nil)
  }

  private var answers: Bool { (try? rootConnection()) != nil }

  /// The bank's user and database, and the one backups are taken as, if they are not there.
  private func prepareDatabase() throws {
    let root = try rootConnection()
    try root.run("CREATE DATABASE IF NOT EXISTS \(facts.database)")
    for (name, file) in [(facts.user, facts.passwordFile), (facts.adminUser, facts.adminPasswordFile)] {
      let password = try PostgreSQLConnection.password(file)
      try root.run("CREATE USER IF NOT EXISTS $1@$2 IDENTIFIED BY $3", .text(name), .text(facts.host), .text(password))
    }
    try root.run("GRANT ALL ON \(facts.database).* TO $1@$2", .text(facts.user), .text(facts.host))
    try root.run("GRANT \(Self.rights) ON *.* TO $1@$2", .text(facts.adminUser), .text(facts.host))
  }
}
