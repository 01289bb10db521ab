import ArgumentParser
import Console
import Core
import Runtime
import Vault

extension VaultCommand.Key {
  struct Rotate: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "rotate", abstract: "Change the password, or the master key with it, and say which it was.",
      discussion: """
        Rewrapping gives the master key a new password and takes the old one away: enough if a password may have been seen. \
        Whoever had the master key (a password and a copy of the key file) still has it, and reads what is stored, and what \
        will be. --reencrypt copies every snapshot into a new repository with a master key of its own: enough if the master key \
        may have been taken. Interrupted, the same command goes on where it was. The old repository stays until you remove it; \
        what somebody copied of it stays readable for them.

        EXAMPLES
          salvor vault key rotate --new-password-file /run/secrets/new
          salvor vault key rotate --all-others --new-password-file /run/secrets/new
          salvor vault key rotate --reencrypt --to /srv/backup-2 --new-password-file /run/secrets/new
        """)

    @Flag(help: "Remove every other key as well, not only the one in use.") var allOthers = false
    @Flag(help: "Copy everything into a new repository, under a new master key.") var reencrypt = false
    @Option(help: ArgumentHelp("Where the new repository is to be.", valueName: "location")) var to: String?
    @OptionGroup var new: NewPassword
    @OptionGroup var options: RepositoryOptions

    func validate() throws {
      if reencrypt != (to != nil) { throw ValidationError("--reencrypt and --to go together") }
      if reencrypt, allOthers { throw ValidationError("a new repository has one key: leave out --all-others") }
    }

    func run() async throws {
      let password = try await new.read(options)
      if let to { try await reencrypt(to: to, password) } else { try await rewrap(password) }
    }

    // MARK: The password

    private func rewrap(_ password: Secret) async throws {
      let allOthers = allOthers
      let (id, removed, stale) = try await options.locked(exclusive: true, needsLock: true, loadingIndex: false) {
        repository in
        let before = try await repository.keys()
        let id = try await repository.changePassword(to: password)
        var removed = before.filter(\.isCurrent).map(\.id)
        if allOthers {
          for key in before where !key.isCurrent {
            try await repository.removeKey(key.id)
            removed.append(key.id)
          }
        }
        let gone = Set(removed)
        let stale = (try? await Repository.escrows(in: repository.store).files.filter { gone.contains($0.key) }) ?? []
        return (id, removed, stale)
      }
      let json: JSONValue = [
        "kind": "rewrapped", "key": .string(id.hex), "removed": .array(removed.map { .string($0.hex) }),
        "master_key_changed": false, "stale_escrows": .array(stale.map { .string($0.id.hex) }),
      ]
      try options.show(json) { style in
        [
          "rewrapped: the master key has a new password, as key \(id.short); "
            + "\(removed.count.of("key")) removed",
          style.paint("the master key is the same", .warning)
            + ": whoever had it still has it, and reads what is stored and what will be",
        ] + stale.map { "escrow \($0.id.short) (\($0.label.harmless)) is stale: seal the new password again" }
      }
    }

    // MARK: The master key

    private func reencrypt(to location: String, _ password: Secret) async throws {
      let (command, line, settings) = (self, options.progress, try options.vaultSettings())
      let target = try options.store(at: location)
      let result = try await options.locked { source in
        guard target.location != source.store.location else { throw RepositoryOptionsFailure.sameRepository }
        let new = try await command.open(target, password, beside: source, settings)
        guard new.config.id != source.config.id else { throw RepositoryOptionsFailure.sameRepository }
        return try await new.withLock {
          var known = try await new.snapshots()
          var copied = 0
          // All of them: one that can't be read must not be missed without a word.
          let all = try await source.snapshots()
          for (number, stored) in all.enumerated() {
            let report = try await new.copy(stored, from: source, known: known) { blobs in
              line.show("re-encrypt \(number + 1) of \(all.count)", blobs.of("blob"))
            }
            if report.wasKnown { continue }
            copied += 1
            known.append(StoredSnapshot(id: report.snapshot, snapshot: try await new.loadSnapshot(report.snapshot)))
          }
          return (id: new.config.id, total: all.count, copied: copied)
        }
      }
      line.clear()
      let json: JSONValue = [
        "kind": "reencrypted", "repository": .string(result.id.hex), "location": .string(target.location),
        "snapshots": .integer(Int64(result.total)), "copied": .integer(Int64(result.copied)),
        "master_key_changed": true,
      ]
      try options.show(json) { style in
        [
          "re-encrypted: \(result.total.of("snapshot")), \(result.copied) of them now, in \(target.location.harmless) "
            + "under a new master key",
          "the old repository is as it was: point what backs up to the new one, `salvor vault check --read-data` it, "
            + "then remove the old one",
          style.paint("what was copied of the old one stays readable", .warning) + " for whoever has its master key",
        ]
      }
    }

    /// Makes the new repository, or goes on with the one that an earlier run made.
    private func open(
      _ store: any ObjectStore, _ password: Secret, beside source: Repository, _ settings: VaultSettings
    ) async throws -> Repository {
      if try await store.contains(.config) {
        return try await Repository.open(store: store, password: password, settings: settings)
      }
      return try await Repository.create(
        store: store, password: password, chunkerPolynomial: source.config.chunkerPolynomial, settings: settings)
    }
  }
}
