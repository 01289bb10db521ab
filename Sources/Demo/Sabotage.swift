import Core
import Foundation
import IO
import Recovery
import Vault

/// What bit rot does: one flipped bit in a pack that only the newest copy of one store needs.
enum Sabotage {
  /// - Returns: The pack that was changed, and where.
  static func flipByte(
    in store: StoreName, of newest: RecoveryPoint, sparing older: [RecoveryPoint], vault: Repository, directory: String
  ) async throws -> (pack: String, offset: Int) {
    var needed = try await blobs(of: store, in: newest, vault)
    for point in older {
      for name in point.stores.keys { needed.subtract(try await blobs(of: name, in: point, vault)) }
    }
    for name in newest.stores.keys where name != store {
      needed.subtract(try await blobs(of: name, in: newest, vault))
    }
    for blob in needed.sorted() {
      guard let place = vault.location(of: .data, blob) else { continue }
      let path = "\(directory)/data/\(place.pack.hex.prefix(2))/\(place.pack.hex)"
      let offset = place.offset + place.length / 2
      var bytes = try Files.read(path)
      guard bytes.indices.contains(offset) else { continue }
      bytes[offset] ^= 0x40
      try Files.replace(path, with: bytes, mode: 0o400)
      return (place.pack.hex, offset)
    }
    throw DemoError.story("no pack belongs to the newest copy of \(store) alone")
  }

  private static func blobs(of store: StoreName, in point: RecoveryPoint, _ vault: Repository) async throws -> Set<
    BlobID
  > {
    guard let part = point.stores[store], let id = Digest(hex: part.snapshot) else { return [] }
    let tree = SnapshotTree(reader: vault, root: try await vault.loadSnapshot(id).tree)
    // Below the store's own directory: the facts beside it differ in every copy.
    return Set(try await tree.allNodes(below: TreePath([FileName(store.text)])).flatMap(\.node.content))
  }
}
