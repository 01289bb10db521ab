import Catalog
import Core
import Demo
import Foundation
import IO
import Runtime
import TestSupport

#if canImport(Glibc)
  import Glibc
#endif

/// The demo's bank, running, with a repository, and the built program beside it.
final class RunbookBank: Sendable {
  let directory: TemporaryDirectory
  let bank: Bank
  let program: String
  let runbooks: String
  /// Not below /tmp, of which drills are to have a copy.
  let state: String
  private let host: Machine

  var root: String { directory.path }
  var catalog: String { root + "/catalog" }
  /// Where an operator's shell finds programs.
  var path: String { "\(Files.parent(of: program)):\(Self.usual)" }
  static let usual = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"

  init(engines: Bool = false) async throws {
    let basePort = try Self.freePorts()
    directory = try TemporaryDirectory("runbook")
    let root = directory.path
    chmod(root, 0o755)
    program = try CommandRun.product("salvor")
    runbooks = root + "/runbooks"
    state = "/var/tmp/salvor-runbooks-\(ProcessID.current)-\(basePort)"
    bank = Bank(
      program: try CommandRun.product("salvor-bank"), directory: root + "/bank", engines: engines, basePort: basePort)
    host = Machine(environment: ["PATH": Self.usual], name: "test", stateDirectory: state)
    try Files.createDirectory(bank.directory)
    try await bank.create()
    try Files.createDirectory(catalog)
    try Files.replace(catalog + "/bank.yaml", with: Array(try await bank.catalog().utf8), mode: 0o600)
    let system = try await system()
    guard let declared = system.catalog.repositories.first, case .file(let password) = declared.password else {
      throw SystemFailure("find", path: "password", number: 2)
    }
    try Files.replace(password, with: Array("0123456789abcdef".utf8), mode: 0o600)
    _ = try await system.vaults.create(declared)
    _ = try await system.startAll()
  }

  /// The first of eleven ports nobody listens on, below those that the kernel gives away.
  private static func freePorts() throws -> Int {
    let random = SystemRandomness()
    for _ in 0..<200 {
      let base = 20_000 + random.below(750) * 16
      if (0..<11).allSatisfy({ isFree(UInt16(base + $0)) }) { return base }
    }
    throw SystemFailure("bind", path: "127.0.0.1", number: EADDRINUSE)
  }

  private static func isFree(_ port: UInt16) -> Bool {
    let descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
    defer { Glibc.close(descriptor) }
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_port = port.bigEndian
    address.sin_addr.s_addr = UInt32(0x7F00_0001).bigEndian
    return withUnsafePointer(to: &address) { pointer in
      pointer.withMemoryRebound(to: sockaddr.self, capacity: 1) {
        bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size)) == 0
      }
    }
  }

  func system() async throws -> ManagedSystem {
    try ManagedSystem(try await CatalogFiles.load(catalog, pool: .shared), host: host)
  }

  func close() async {
    _ = try? await bank.killEverything(time: SystemTime())
    try? Files.removeTree(state)
  }

  // MARK: Commands

  @discardableResult
  func salvor(_ words: String..., is status: Int32) async throws -> CommandRun {
    let run = try await CommandRun(
      [program] + words, in: root,
      environment: ["SALVOR_CATALOG": catalog, "SALVOR_STATE": state, "HOME": root, "NO_COLOR": "1"])
    guard run.status == status else { throw CommandRun.Failed(description: "expected \(status): \(run)") }
    return run
  }

  func page(_ name: String) throws -> String { String(decoding: try Files.read("\(runbooks)/\(name)"), as: UTF8.self) }

  func work(_ seed: UInt64) async throws {
    let done = try await bank.transfers(25, seed: seed, record: "\(root)/acknowledged-\(seed)")
    guard done > 0 else { throw CommandRun.Failed(description: "no transfer was made") }
  }

  /// Everything it holds, as a digest; whoever has it can't be told it came back by a health check.
  func content() async throws -> String {
    let engines = """
      redis-cli -p \(bank.basePort + 8) --scan | sort
      \(mariadb) 'SELECT * FROM bank.notices ORDER BY number'
      \(psql) 'SELECT * FROM entries ORDER BY id'
      """
    let files = "for name in ledger sessions; do sqlite3 \"file:data/$name/$name.db?mode=rw\" .dump; done"
    let script = """
      set -e
      sqlite3 "file:data/accounts/accounts.db?mode=rw" .dump
      \(bank.engines ? engines : files)
      cd data/statements
      find . -type f ! -name '.*' -print0 | sort -z | xargs -0r sha256sum
      """
    let run = try await CommandRun(["sh", "-c", script], in: bank.directory).succeeded()
    return "\(run.output.split(separator: "\n").count) lines, \(Digest.of(run.output).short)"
  }

  private var psql: String {
    "PGPASSWORD=$(cat secrets/postgresql-admin) psql -h 127.0.0.1 -p \(bank.basePort + 7) -U salvor -d bank -XAtqc"
  }

  private var mariadb: String {
    "MYSQL_PWD=$(cat secrets/mariadb-admin) mariadb -h 127.0.0.1 -P \(bank.basePort + 9) -u salvor -BNe"
  }

  /// Rules across stores, asked without Salvor.
  func brokenLinks() async throws -> String {
    let script = """
      set -e
      sqlite3 data/accounts/accounts.db 'SELECT id FROM transfers' > ../transfers
      \(bank.engines ? psql : "sqlite3 data/ledger/ledger.db") "SELECT id FROM entries WHERE state = 'posted'" > ../posted
      for list in transfers posted; do sort ../$list > ../$list.sorted; done
      test -s ../posted
      diff ../transfers.sorted ../posted.sorted || true
      """
    return try await CommandRun(["sh", "-c", script], in: bank.directory).succeeded().output
  }

  func loseEverything() async throws {
    _ = try await bank.killEverything(time: SystemTime())
    try bank.loseEveryDisk()
  }
}
