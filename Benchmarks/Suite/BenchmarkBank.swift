import Catalog
import Core
import Demo
import IO
import Runtime
import StateKit

#if canImport(Glibc)
  import Glibc
#elseif canImport(Darwin)
  import Darwin
#endif

/// The demo's bank, built beside this program: it runs, has been used, and has a catalog of its own.
struct BenchmarkBank: Sendable {
  let bank: Bank
  let system: ManagedSystem
  let journal: any RunJournal
  /// The program `salvor`.
  let program: String
  /// A drill covers /tmp: state lies elsewhere.
  private let state: String
  private let place: String

  /// - Parameters:
  ///   - more: Documents for the catalog.
  ///   - transfers: How much the bank has been used.
  init(
    _ context: BenchmarkContext, engines: Bool, basePort: Int, more: String = "", transfers: Int
  ) async throws {
    place = context.directory
    state = "/var/tmp/salvor-bench-\(ProcessID.current)-\(basePort)"
    program = MeasuredProgram.own
    let bankProgram = Files.parent(of: program) + "/salvor-bank"
    guard Files.exists(bankProgram) else {
      throw BenchmarkError.wrong("\(bankProgram) is not there: swift build -c release --product salvor-bank")
    }
    // The engines' users have to get in.
    guard chmod(place, 0o755) == 0 else { throw SystemFailure("chmod", path: place) }
    bank = Bank(program: bankProgram, directory: place + "/bank", engines: engines, basePort: basePort)
    try Files.createDirectory(bank.directory)
    try await bank.create()
    try Files.createDirectory(place + "/catalog")
    let catalog = try await bank.catalog() + more
    try Files.replace(place + "/catalog/bank.yaml", with: Array(catalog.utf8), mode: 0o600)
    let loaded = try await CatalogFiles.load(place + "/catalog", pool: .shared)
    let host = Machine(
      time: context.time, environment: ["PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"], name: "bench",
      stateDirectory: state)
    system = try ManagedSystem(loaded, host: host)
    guard let declared = loaded.catalog.repositories.first, case .file(let password) = declared.password else {
      throw BenchmarkError.wrong("the bank's catalog names no password file")
    }
    try Files.replace(password, with: Array("0123456789abcdef".utf8), mode: 0o600)
    _ = try await system.vaults.create(declared)
    _ = try await system.startAll()
    journal = try await Registry.journal(host)
    try await use(transfers, seed: 1)
  }

  /// Transfers, as fast as 400 a second.
  func use(_ transfers: Int, seed: UInt64) async throws {
    for round in 0..<max(1, transfers / 400) {
      let count = min(400, transfers - round * 400)
      guard count > 0 else { break }
      _ = try await bank.transfers(count, seed: seed &* 1000 &+ UInt64(round), record: place + "/acknowledged.txt")
    }
  }

  func point() async throws {
    let backup = Backup(system, journal: journal)
    for target in try backup.targets() { _ = try await backup.take(target) }
  }

  /// Kills all of it and empties every disk.
  func lose(_ time: any Timekeeper) async throws {
    _ = try await bank.killEverything(time: time)
    try bank.loseEveryDisk()
  }

  func end(_ time: any Timekeeper) async {
    try? await system.stopAll()
    _ = try? await bank.killEverything(time: time)
    try? Files.removeTree(state)
  }
}
