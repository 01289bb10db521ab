import ArgumentParser
import Console
import Core
import IO
import Vault

extension VaultCommand {
  /// `list`, as restic has it; ``List`` is `ls`.
  struct Objects: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "list", abstract: "List the names of what a repository consists of.",
      discussion: """
        EXAMPLES
          salvor vault list locks
          salvor vault list packs --json
        """)

    enum Kind: String, CaseIterable, ExpressibleByArgument { case locks, snapshots, index, packs, keys, blobs }

    @Argument(help: "locks, snapshots, index, packs, keys or blobs.") var kind: Kind
    @OptionGroup var options: RepositoryOptions

    func run() async throws {
      let kind = kind
      if kind == .locks { return try await listLocks() }
      let names: [String] = try await options.locked(loadingIndex: kind == .blobs) { repository in
        func names(_ kind: ObjectKind) async throws -> [String] {
          try await repository.store.list(kind).compactMap { $0.name.id?.hex }
        }
        switch kind {
        case .locks: return try await names(.lock)
        case .snapshots: return try await names(.snapshot)
        case .index: return try await names(.index)
        case .packs: return try await names(.data)
        case .keys: return try await names(.key)
        case .blobs:
          return BlobKind.allCases.flatMap { kind in repository.blobIDs(kind).sorted().map { "\(kind) \($0.hex)" } }
        }
      }
      try options.show(names) { _ in names }
    }

    /// Without a lock of its own, which would be among them.
    private func listLocks() async throws {
      let names = try await options.open().store.list(.lock).compactMap { $0.name.id?.hex }
      try options.show(names) { _ in names }
    }
  }

  struct Cat: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
      commandName: "cat", abstract: "Print one object of a repository, decrypted.",
      discussion: """
        A pack comes as it is stored, encrypted; a tree is named by a snapshot, and a directory in it. With the master key, \
        all that is stored can be read, by anyone, without a password: it is printed only when asked for by name.

        EXAMPLES
          salvor vault cat config
          salvor vault cat tree latest:/etc
          salvor vault cat snapshot latest
          salvor vault cat blob 5c1d… > piece
        """)

    enum Kind: String, CaseIterable, ExpressibleByArgument {
      case config, snapshot, index, lock, key, masterkey, blob, pack, tree
    }

    @Argument(help: "config, snapshot, index, lock, key, masterkey, blob, pack or tree.") var kind: Kind
    @Argument(help: "The first digits of its id; of a tree, SNAPSHOT[:DIRECTORY].") var id: String?
    @OptionGroup var options: RepositoryOptions

    func validate() throws {
      let isOne = kind == .config || kind == .masterkey
      if (id == nil) != isOne {
        throw ValidationError(isOne ? "a repository has one \(kind.rawValue), without an id" : "its id is missing")
      }
    }

    func run() async throws {
      let (kind, id) = (kind, id ?? "")
      let bytes: [UInt8] = try await options.locked(loadingIndex: kind == .blob || kind == .tree) { repository in
        switch kind {
        case .masterkey: return repository.revealMasterKey()
        case .pack:
          return try await repository.store.get(ObjectName(.data, try await repository.find(.data, id)))
        case .tree:
          let parts = id.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false).map(String.init)
          let stored = try await SnapshotFilter.all.find(parts[0], in: repository)
          let tree = SnapshotTree(reader: repository, root: stored.snapshot.tree)
          return try await repository.load(
            .tree, try await tree.tree(at: TreePath(parts.count > 1 ? parts[1] : "")))
        case .config: return try await repository.contents(of: .config)
        case .snapshot:
          let found =
            id == "latest"
            ? try await SnapshotFilter.all.find(id, in: repository) : try await repository.findSnapshot(id)
          return try await repository.contents(of: ObjectName(.snapshot, found.id))
        case .index: return try await repository.contents(of: ObjectName(.index, try await repository.find(.index, id)))
        case .lock: return try await repository.contents(of: ObjectName(.lock, try await repository.find(.lock, id)))
        case .key: return try await repository.contents(of: ObjectName(.key, try await repository.find(.key, id)))
        case .blob:
          let matches = BlobKind.allCases.flatMap { kind in
            repository.blobIDs(kind, beginningWith: id.lowercased()).map { (kind, $0) }
          }
          let (kind, blob) = try Repository.only(matches, of: "blob", id)
          return try await repository.load(kind, blob)
        }
      }
      if kind == .blob || kind == .pack || kind == .tree { return rawOutput(bytes) }
      if kind == .masterkey { standardError("warning: whoever has this can read and forge all that is stored\n") }
      let value = try CanonicalJSON.decode(JSONValue.self, from: bytes)
      try options.show(value) { _ in [(try? CanonicalJSON.text(value, pretty: true)) ?? ""] }
    }
  }
}

extension SnapshotFilter {
  /// Lets every snapshot through.
  static var all: SnapshotFilter {
    var filter = SnapshotFilter()
    (filter.host, filter.tag, filter.path) = ([], [], [])
    return filter
  }
}

extension Repository {
  /// The one object whose id begins with `prefix`.
  func find(_ kind: ObjectKind, _ prefix: String) async throws -> Digest {
    let ids = try await store.list(kind).compactMap(\.name.id).filter { $0.hex.hasPrefix(prefix.lowercased()) }
    return try Self.only(prefix.isEmpty ? [] : ids, of: kind.rawValue, prefix)
  }

  static func only<T>(_ matches: [T], of kind: String, _ prefix: String) throws -> T {
    guard let first = matches.first, matches.count == 1 else {
      throw CommandFailure(
        .failed,
        Report("VAULT-154", "\(matches.count) of \(kind) have an id that begins with '\(prefix.harmless)'")
          .remedy("list the ids with `salvor vault list`, and give as many digits as tell one from the others"))
    }
    return first
  }
}
