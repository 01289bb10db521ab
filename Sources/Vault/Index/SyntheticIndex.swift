import Core
import IO

/// Fills a repository with blobs that are only named, for measuring: index files and directories are real, packs of data
/// are as large as the index says, and empty.
package struct SyntheticIndex: Sendable {
  package var blobs: Int
  package var blobsPerPack: Int
  /// Of every two blobs, one is in the snapshot.
  package static let blobsPerTree = 100

  package init(blobs: Int, blobsPerPack: Int) {
    (self.blobs, self.blobsPerPack) = (blobs, max(1, blobsPerPack))
  }

  /// - Parameter makePack: Makes a pack of so many bytes. Blocks.
  /// - Returns: The snapshot's tree.
  package func write(
    to repository: Repository, seed: UInt64, makePack: @escaping @Sendable (Digest, Int) throws(SystemFailure) -> Void
  ) async throws(VaultError) -> BlobID {
    let perFile = repository.settings.indexBlobs
    let files = (blobs + perFile - 1) / perFile
    let roots = Collected<Int, BlobID>()
    try await inParallel(Array(0..<files), limit: repository.settings.processors) { (file) throws(VaultError) in
      let count = min(perFile, blobs - file * perFile)
      let packs = try await repository.computing { () throws(VaultError) in
        let packs = self.packs(count, SeededRandomness(seed: seed &+ UInt64(file)))
        for pack in packs {
          do throws(SystemFailure) {
            try makePack(pack.id, pack.blobs.reduce(PackHeader.sizeBytes(pack.blobs)) { $0 + $1.length })
          } catch { throw .outside(AnyFailure(error)) }
        }
        return packs
      }
      _ = try await repository.writeFile(.index, IndexFile.encode(packs))
      let ids = packs.flatMap { $0.blobs.map(\.id) }
      var directories: [TreeNode] = []
      for start in stride(from: 0, to: ids.count, by: Self.blobsPerTree) {
        let part = ids[start..<min(start + Self.blobsPerTree, ids.count)]
        let content = part.indices.filter { $0 % 2 == 0 }.map { ids[$0] }
        let tree = TreeEncoder.encode([Self.node("file", .regular, content: content)])
        directories.append(
          Self.node("\(start)", .directory, subtree: try await repository.save(.tree, tree).id))
      }
      roots.insert(file, try await repository.save(.tree, TreeEncoder.encode(directories)).id)
    }
    let top = roots.all.map { Self.node("\($0)", .directory, subtree: $1) }
    let tree = try await repository.save(.tree, TreeEncoder.encode(top)).id
    try await repository.flush()
    _ = try await repository.save(
      Snapshot(time: Timestamp(seconds: 0), tree: tree, paths: ["/synthetic"], hostname: "synthetic"))
    return tree
  }

  private func packs(_ count: Int, _ random: SeededRandomness) -> [IndexedPack] {
    stride(from: 0, to: count, by: blobsPerPack).map { start in
      let names = random.bytes(32 * (1 + min(blobsPerPack, count - start)))
      return names.withUnsafeBytes { names in
        func name(_ number: Int) -> Digest {
          Digest(UnsafeRawBufferPointer(rebasing: names[32 * number..<32 * number + 32]))
        }
        var offset = 0
        let blobs = (1..<names.count / 32).map { number in
          let length = 1000 + random.below(600_000)
          defer { offset += length }
          return PackedBlob(
            kind: .data, id: name(number), offset: offset, length: length, uncompressedBytes: length * 2)
        }
        return IndexedPack(id: name(0), blobs: blobs)
      }
    }
  }

  private static func node(
    _ name: String, _ kind: FileKind, content: [BlobID] = [], subtree: BlobID? = nil
  ) -> TreeNode {
    TreeNode(
      name: FileName(name), metadata: FileMetadata(kind: kind, permissions: 0o700, modified: Timestamp(seconds: 0)),
      content: content, subtree: subtree)
  }
}
