import Core
import IO
import Vault

/// A repository's ``VerificationLog`` in this machine's state directory, written every minute of a check and at its end.
package actor VerificationRecord {
  package private(set) var log = VerificationLog()
  /// Why what was there can't be used; the record begins anew then.
  package private(set) var trouble: Report?
  private let repository: Vault.Repository
  private let host: Machine
  private var writtenNanoseconds: Int64 = 0
  private var saved = VerificationLog()

  /// Reads what is there; what can't be read, or isn't sealed with the repository's key, counts as nothing.
  package init(of repository: Vault.Repository, _ host: Machine) async {
    (self.repository, self.host) = (repository, host)
    let path = path
    writtenNanoseconds = host.time.monotonicNanoseconds()
    do throws(SystemFailure) {
      let bytes = try await host.pool.run { () throws(SystemFailure) -> [UInt8]? in
        try Files.isThere(path) ? Files.read(path, limitBytes: VerificationLog.limitBytes) : nil
      }
      guard let bytes else { return }
      if let log = VerificationLog(sealed: bytes, for: repository) {
        (self.log, saved) = (log, log)
      } else {
        trouble = Self.unusable("it is damaged, or of another repository")
      }
    } catch { trouble = Self.unusable(error.report.summary) }
    let now = host.time.now()
    log.packs = log.packs.filter { $0.value <= now }
  }

  /// A copy elsewhere has the same id, and packs that age by themselves.
  private var place: String { String(Digest.of(repository.store.location).hex.prefix(16)) }

  private var path: String { host.path("vault/\(repository.config.id.hex)/verified-\(place)") }

  private static func unusable(_ why: String) -> Report {
    Report("VAULT-211", "the record of what was verified can't be used: \(why)").state("it begins anew")
      .remedy("nothing is lost but the times; a check that reads everything fills it again")
  }

  package func note(_ pack: Digest, isSound: Bool) async {
    log.packs[pack] = isSound ? host.time.now() : nil
    let now = host.time.monotonicNanoseconds()
    guard now - writtenNanoseconds > 60_000_000_000 else { return }
    writtenNanoseconds = now
    await save()
  }

  /// Forgets packs that are no longer there, and writes.
  package func finish(_ listed: Set<Digest>) async {
    log.keep(listed, now: host.time.now())
    await save()
  }

  /// A state directory that can't be written to is told, and keeps nobody from checking.
  package func save() async {
    // Who only looks leaves nothing behind.
    if log == saved { return }
    let (log, repository, path) = (log, repository, path)
    do {
      try await host.pool.run {
        try Files.createDirectory(Files.parent(of: path), mode: 0o700)
        try Files.replace(path, with: try log.sealed(for: repository))
      }
      saved = log
    } catch {
      trouble = Report(
        "VAULT-212", "the record of what was verified can't be kept: \(AnyFailure(error).report.summary)"
      )
      .state("the check itself is not affected").remedy("make the state directory writable, or name another")
    }
  }
}
