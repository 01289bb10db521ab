import Core

/// Why the vault could not do what was asked, and what the operator can do about it.
///
/// Codes: 100 to 119 access and what is wanted, 120 to 149 damage, 171 to 179 stores that break their word, 201 to 209 locks, 301 and up the world around.
package enum VaultError: Failure, Equatable {
  // Access, and what is asked for
  case wrongPassword(keysTried: Int)
  case notARepository(String)
  case repositoryExists(String)
  case unsupportedVersion(Int)
  case noSuchKey(String)
  case keyInUse(Digest)
  case snapshotNotFound(String)
  case snapshotAmbiguous(String, matches: Int)
  case blobSize(Int)
  case setting(String)
  case otherRepository(String)

  // Damage
  case packCorrupt(Digest, bytes: Range<Int>, String)
  case packTruncated(Digest, sizeBytes: Int, neededBytes: Int)
  case packMissing(Digest)
  case blobMissing(BlobKind, BlobID)
  case indexDamaged(Digest, String)
  case keyDamaged(Digest, String)
  case configDamaged(String)
  case snapshotDamaged(Digest, String)
  case lockDamaged(Digest, String)
  case treeDamaged(BlobID, String)
  /// What was to be written did not come out again: memory or processor are at fault.
  case writeVerification(String)
  /// A directory says things that this version would lose by writing it anew.
  case treeUnfamiliar(BlobID)

  // Escrow
  case escrowDamaged(Digest, String)
  case escrowKey(String)
  case noEscrow(Digest)
  case escrowNotKept(String)

  // Stores that don't keep what they promise
  /// What the store said it stored isn't there.
  case notKept(ObjectName, String)
  /// What is there isn't listed.
  case listingBehind(ObjectName)
  /// Indexes list different parts of one pack.
  case packListedInParts(Digest)

  // Locks
  case lockHeld(by: String)
  case lockLost(String)

  // The world around
  case store(StoreError)
  case cancelled
  case cryptography(String)
  /// What a caller's closure threw.
  case outside(AnyFailure)

  package static func == (a: VaultError, b: VaultError) -> Bool { a.report == b.report }
}

extension VaultError {
  package var report: Report {
    switch self {
    case .wrongPassword(let count):
      Report("VAULT-101", "the password opens none of the repository's \(count) keys")
        .remedy("check where the password is read from; nothing was read or changed")
    case .notARepository(let place):
      Report("VAULT-102", "there is no repository at \(place)")
        .remedy("check the location; create one with `salvor vault init` if it is meant to be new")
    case .repositoryExists(let place):
      Report("VAULT-103", "there is a repository at \(place) already", retry: .never)
        .remedy("open it, or choose another place; it was not touched")
    case .unsupportedVersion(let version):
      Report("VAULT-104", "the repository has version \(version), and only 1 and 2 are known", retry: .never)
        .remedy("use a newer Salvor or restic")
    case .noSuchKey(let hint):
      Report("VAULT-105", "no key is named \(hint)").remedy("list the keys with `salvor vault key list`")
    case .keyInUse(let id):
      Report("VAULT-106", "key \(id.short) is the one this session was opened with", retry: .never)
        .remedy("open the repository with another key, then remove this one")
    case .snapshotNotFound(let name):
      Report("VAULT-107", "no snapshot matches \(name)").remedy("list the snapshots with `salvor vault snapshots`")
    case .snapshotAmbiguous(let name, let count):
      Report("VAULT-108", "\(count) snapshots match \(name)").remedy("give more digits of the one you mean")
    case .blobSize(let bytes):
      Report("VAULT-109", "a blob of \(bytes) bytes cannot be stored", retry: .never)
        .remedy("blobs have 1 byte to \(BlobLimits.plaintextBytes >> 20) MiB; this is a defect of the caller")
    case .setting(let text):
      Report("VAULT-110", text, retry: .afterChange)
    case .otherRepository(let place):
      Report("VAULT-192", "there is another repository at \(place)", retry: .never).state("it was not touched")
        .remedy("choose an empty place for the mirror, or the copy this repository has")
    default: damageReport
    }
  }

  private var damageReport: Report {
    switch self {
    case .packCorrupt(let pack, let bytes, let reason):
      Report(
        "VAULT-121", "pack \(pack) is damaged in bytes \(bytes.lowerBound) to \(bytes.upperBound): \(reason)",
        retry: .never
      )
      .remedy("bring the file back from a second copy of the repository; `salvor vault check` lists what it touches")
    case .packTruncated(let pack, let size, let needed):
      Report("VAULT-122", "pack \(pack) has \(size) bytes and should have \(needed)", retry: .never)
        .remedy("bring the file back from a second copy of the repository")
    case .packMissing(let pack):
      Report("VAULT-123", "pack \(pack) is missing", retry: .never)
        .remedy("bring data/\(pack.hex.prefix(2))/\(pack) back from a second copy of the repository")
    case .blobMissing(let kind, let id):
      Report("VAULT-124", "\(kind) blob \(id) is in no index", retry: .never)
        .remedy("run `salvor vault repair index` in case an index was lost; then check again")
    case .indexDamaged(let id, let reason):
      Report("VAULT-125", "index \(id) is damaged: \(reason)", retry: .never)
        .remedy("run `salvor vault repair index`: packs carry all an index says")
    case .keyDamaged(let id, let reason):
      Report("VAULT-126", "key \(id) is damaged: \(reason)", retry: .never)
        .remedy("bring the file back from a copy, or open the repository with another key's password")
    case .configDamaged(let reason):
      Report("VAULT-127", "the repository's config is damaged: \(reason)", retry: .never)
        .remedy("bring the file `config` back from a second copy of the repository")
    case .snapshotDamaged(let id, let reason):
      Report("VAULT-128", "snapshot \(id) is damaged: \(reason)", retry: .never)
        .remedy("bring the file back from a second copy; other snapshots are not affected")
    case .lockDamaged(let id, let reason):
      Report("VAULT-129", "lock \(id) cannot be read: \(reason)")
        .remedy("if no other program works on the repository, run `salvor vault unlock --remove-all`")
    case .treeDamaged(let id, let reason):
      Report("VAULT-130", "tree \(id) is damaged: \(reason)", retry: .never)
        .remedy("its pack is intact, so it was written wrong; restore from another snapshot and report this")
    case .writeVerification(let what):
      Report("VAULT-131", "what was written did not read back: \(what)", retry: .never)
        .state("nothing of it was uploaded")
        .remedy("test this machine's memory before trusting it with backups")
    case .treeUnfamiliar(let id):
      Report("VAULT-213", "tree \(id) has fields that this version would lose by writing it anew", retry: .never)
        .remedy("rewrite the snapshot with the program that wrote it, or a newer Salvor")
    default: escrowReport
    }
  }

  private var escrowReport: Report {
    switch self {
    case .escrowDamaged(let id, let reason):
      Report("VAULT-215", "escrow \(id.short) is damaged: \(reason)", retry: .never)
        .remedy("remove it with `salvor vault escrow remove`, and seal the password to its recipient again")
    case .escrowKey(let reason):
      Report("VAULT-216", "that escrow key can't be used: \(reason)").state("nothing was opened or changed")
        .remedy("give a file that `salvor vault escrow keygen` made, readable by its owner alone")
    case .noEscrow(let recipient):
      Report("VAULT-217", "no password is sealed to recipient \(recipient.short) here")
        .remedy("`salvor vault escrow list` shows whom there is one for; try another key")
    case .escrowNotKept(let reason):
      Report("VAULT-219", "the store keeps no escrow: \(reason)")
        .remedy(
          "a REST server keeps only what restic knows: add the escrow where the repository's directory or bucket is")
    default: storeReport
    }
  }

  private var storeReport: Report {
    switch self {
    case .notKept(let name, let reason):
      Report("VAULT-171", "the store did not keep \(name): \(reason)", retry: .afterChange)
        .state("it does not count as stored; nothing was removed for it")
        .remedy("find out what is wrong with the store, run `salvor vault check --read-data`, then run this again")
    case .listingBehind(let name):
      Report("VAULT-172", "the store did not list \(name), which it has", retry: .afterBackoff)
        .state("nothing was removed: what a store doesn't list would be taken for gone")
        .remedy("wait until the store's listings are up to date; keep backups where they always are")
    case .packListedInParts(let pack):
      Report("VAULT-173", "indexes list different parts of pack \(pack)", retry: .afterChange)
        .state("nothing was removed")
        .remedy("run `salvor vault repair index`, then prune again")
    default: worldReport
    }
  }

  private var worldReport: Report {
    switch self {
    case .lockHeld(let owner):
      Report("VAULT-201", "the repository is locked by \(owner)", retry: .afterBackoff)
        .remedy("wait for that run; if its process is gone, run `salvor vault unlock`")
    case .lockLost(let reason):
      Report("VAULT-202", "this run's lock was lost: \(reason)", retry: .afterBackoff)
        .remedy("run it again; what was uploaded is found and not sent twice")
    case .store(let error):
      error.report
    case .cancelled:
      Report("VAULT-302", "cancelled", retry: .afterBackoff)
    case .cryptography(let call):
      Report("VAULT-303", "libcrypto refused \(call)", retry: .never).remedy("check the installation of OpenSSL 3")
    case .outside(let failure):
      failure.report
    default:
      Report("VAULT-300", "unknown failure", retry: .never)
    }
  }
}

/// Sizes nobody needs to exceed; they keep a damaged length from asking for all memory.
package enum BlobLimits {
  package static let plaintextBytes = 256 << 20
  /// Index and snapshot files, decompressed.
  package static let metadataBytes = 1 << 30
  /// Key files and the config.
  package static let smallFileBytes = 1 << 20
  package static let packBytes = 1 << 31
}
