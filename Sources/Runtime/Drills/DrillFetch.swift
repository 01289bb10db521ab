import Catalog
import Core
import Drills
import IO
import Recovery
import StateKit
import Vault

/// What a drill restores, brought into its own directory first where the repository is reached over a network, of which a
/// drill has none. Only what it needs: the points' copies, and the log they lead on by.
struct DrillFetch: Sendable {
  let system: ManagedSystem
  let drill: Drill
  /// Where to read from, if not from the repositories themselves.
  let locations: [RepositoryName: DeclaredRepository.Location]
  private var host: Machine { system.host }

  struct Fetched: Sendable {
    var locations: [RepositoryName: DeclaredRepository.Location] = [:]
    var seconds = 0.0
    var bytes = 0
  }

  /// - Parameters:
  ///   - point: `nil`: the newest of every group.
  ///   - forwards: Where stores go on from another point's copy, along the log.
  func run(
    point: String?, forwards: [LogForward], into directory: String, progress: @escaping @Sendable (String) -> Void
  ) async throws -> Fetched {
    var fetched = Fetched(locations: locations)
    let start = host.time.monotonicNanoseconds()
    for repository in system.catalog.repositories {
      let location = locations[repository.name] ?? repository.location
      if case .local = location { continue }
      progress("fetch \(repository.name)")
      let path = "\(directory)/repository-\(repository.name)"
      fetched.bytes += try await copy(repository, at: location, to: path, point: point, forwards)
      fetched.locations[repository.name] = .local(path: path)
    }
    if fetched.locations != locations {
      fetched.seconds = Duration.nanoseconds(host.time.monotonicNanoseconds() - start).seconds
    }
    return fetched
  }

  private func copy(
    _ repository: DeclaredRepository, at location: DeclaredRepository.Location, to path: String, point: String?,
    _ forwards: [LogForward]
  ) async throws -> Int {
    let password = try await host.secrets.resolve(repository.password)
    let source =
      if location == repository.location {
        try await system.vault(of: repository.name)
      } else {
        try await Vault.Repository.open(
          store: try Registry.store(at: location.description, host: host), password: password,
          settings: host.vaultSettings)
      }
    let target = try await Vault.Repository.create(
      store: try Registry.store(at: "local:\(path)", host: host), password: password,
      chunkerPolynomial: source.config.chunkerPolynomial, settings: host.vaultSettings)
    return try await source.withLock(exclusive: false) {
      try await target.withLock(exclusive: false) {
        var bytes = 0
        for stored in try await wanted(in: source, point: point, forwards) {
          bytes += try await target.copy(stored, from: source, known: []).addedBytes
        }
        return bytes
      }
    }
  }

  /// Snapshots the drill reads.
  private func wanted(
    in vault: Vault.Repository, point: String?, _ forwards: [LogForward]
  ) async throws -> [StoredSnapshot] {
    let points = try await PointCatalog(vault: vault, pool: host.pool).list().points
    let fitting = points.filter { !$0.members.isDisjoint(with: drill.stores) && (point ?? $0.id.text) == $0.id.text }
    // As the drill chooses: of each group the newest, and of all the newest, whose catalog is used where there is no other.
    var ids = Set(
      Dictionary(fitting.map { ($0.group, $0) }, uniquingKeysWith: { $0.time < $1.time ? $1 : $0 }).values.map(\.id))
    if let newest = points.max(by: { ($0.time, $0.id) < ($1.time, $1.id) }) { ids.insert(newest.id) }
    let tags = Set(ids.map { "point:\($0)" })
    let origins = Set(forwards.map { "point:\($0.point)" })
    let logs = Set(forwards.map { "store:\($0.store)" })
    let earliest = points.filter { origins.contains("point:\($0.id)") }.map(\.time).min()
    return try await vault.snapshots().filter { stored in
      let own = Set(stored.snapshot.tags)
      if LogRetention.isStretch(stored.snapshot) {
        // Stretches are dated by when they end; two machines' clocks may differ by an hour.
        return !own.isDisjoint(with: logs) && earliest.map { stored.snapshot.time >= $0 - .seconds(3600) } ?? true
      }
      return !own.isDisjoint(with: tags) || !own.isDisjoint(with: origins)
    }
  }
}
