"""Universal Scene Description through Pixar's own library (package usd-core): .usdz, .usdc, .usda.

y up, one world unit is called a metre, displayColor linear, textures sRGB, v upwards.
"""

from __future__ import annotations

import re
import tempfile
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from epigraf.errors import EpigrafError
from epigraf.geometry.gltf import linear_from_srgb
from epigraf.geometry.mesh import Mesh
from epigraf.geometry.wavefront import encode_png

USD_ENDINGS = (".usdz", ".usdc", ".usda")


def write_usd(mesh: Mesh, temporary: Path, path: Path) -> None:
    """Fill `temporary` with what will be called `path`; a texture goes into the package (.usdz) or
    beside it (`path` with .png).

    Raises:
        EpigrafError: usd-core is missing, or cannot write.
    """
    pxr = usd_library(path.suffix)
    try:
        _write(pxr, mesh, temporary, path)
    except pxr.Tf.ErrorException as error:  # a page of places in its source; the first says why
        reason = re.search(r" : '(.*?)'", str(error))
        raise EpigrafError(f"cannot write {path}: {reason[1] if reason else error}") from None


def _write(pxr: Any, mesh: Mesh, temporary: Path, path: Path) -> None:
    packed = path.suffix.lower() == ".usdz"
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as folder:
        ending = ".usdc" if packed else path.suffix.lower()
        layer, picture = Path(folder) / f"{path.stem}{ending}", Path(folder) / f"{path.stem}.png"
        if mesh.texture is not None:
            picture.write_bytes(encode_png(mesh.texture))
        _write_layer(pxr, mesh, layer, picture.name)
        if packed:
            asset = pxr.Sdf.AssetPath(str(layer))
            package = Path(folder) / "package.usdz"
            if not pxr.UsdUtils.CreateNewUsdzPackage(asset, str(package)):
                raise EpigrafError(f"{path}: usd-core could not make the package")
            package.replace(temporary)
            return
        if mesh.texture is not None:
            picture.replace(path.with_suffix(".png"))
        layer.replace(temporary)


def usd_library(ending: str) -> Any:
    """Pixar's modules, which have no type information.

    Raises:
        EpigrafError: usd-core is missing.
    """
    try:
        names = ("Sdf", "Tf", "Usd", "UsdGeom", "UsdShade", "UsdUtils", "Vt")
        return SimpleNamespace(**{name: import_module(f"pxr.{name}") for name in names})
    except ImportError:
        raise EpigrafError(
            f"{ending} needs the package usd-core: pip install 'epigraf[mesh]'"
        ) from None


def _write_layer(pxr: Any, mesh: Mesh, layer: Path, picture: str) -> None:
    Usd, UsdGeom, Vt = pxr.Usd, pxr.UsdGeom, pxr.Vt
    stage = Usd.Stage.CreateNew(str(layer))
    UsdGeom.SetStageUpAxis(stage, UsdGeom.Tokens.y)
    UsdGeom.SetStageMetersPerUnit(stage, 1.0)
    shape = UsdGeom.Mesh.Define(stage, "/object/surface")
    stage.SetDefaultPrim(stage.GetPrimAtPath("/object"))
    stage.GetRootLayer().customLayerData = {"epigraf": dict(mesh.facts)}
    points = mesh.vertices.astype(np.float32)
    shape.CreatePointsAttr(Vt.Vec3fArray.FromNumpy(points))
    shape.CreateFaceVertexCountsAttr(Vt.IntArray.FromNumpy(np.full(len(mesh.faces), 3, np.int32)))
    shape.CreateFaceVertexIndicesAttr(
        Vt.IntArray.FromNumpy(np.ascontiguousarray(mesh.faces.reshape(-1), np.int32))
    )
    shape.CreateNormalsAttr(Vt.Vec3fArray.FromNumpy(mesh.normals.astype(np.float32)))
    shape.SetNormalsInterpolation(UsdGeom.Tokens.vertex)
    shape.CreateSubdivisionSchemeAttr(UsdGeom.Tokens.none)
    extent = np.stack([points.min(0), points.max(0)])
    shape.CreateExtentAttr(Vt.Vec3fArray.FromNumpy(extent))
    if mesh.colors is not None:
        colors = linear_from_srgb(mesh.colors).astype(np.float32)
        primvar = shape.CreateDisplayColorPrimvar(UsdGeom.Tokens.vertex)
        primvar.Set(Vt.Vec3fArray.FromNumpy(colors))
    if mesh.uv is not None:
        primvars = UsdGeom.PrimvarsAPI(shape)
        kind = pxr.Sdf.ValueTypeNames.TexCoord2fArray
        st = primvars.CreatePrimvar("st", kind, UsdGeom.Tokens.vertex)
        st.Set(Vt.Vec2fArray.FromNumpy(mesh.uv.astype(np.float32)))
        _bind_texture(pxr, stage, shape, picture)
    stage.GetRootLayer().Save()


def _bind_texture(pxr: Any, stage: Any, shape: Any, picture: str) -> None:
    """A preview surface that shows the picture, matt, as a base colour."""
    kinds, UsdShade = pxr.Sdf.ValueTypeNames, pxr.UsdShade
    material = UsdShade.Material.Define(stage, "/object/material")
    surface = UsdShade.Shader.Define(stage, "/object/material/surface")
    reader = UsdShade.Shader.Define(stage, "/object/material/st")
    texture = UsdShade.Shader.Define(stage, "/object/material/texture")
    reader.CreateIdAttr("UsdPrimvarReader_float2")
    reader.CreateInput("varname", kinds.String).Set("st")
    texture.CreateIdAttr("UsdUVTexture")
    texture.CreateInput("file", kinds.Asset).Set(picture)
    texture.CreateInput("sourceColorSpace", kinds.Token).Set("sRGB")
    place = reader.CreateOutput("result", kinds.Float2)
    texture.CreateInput("st", kinds.Float2).ConnectToSource(place)
    surface.CreateIdAttr("UsdPreviewSurface")
    surface.CreateInput("roughness", kinds.Float).Set(1.0)
    color = texture.CreateOutput("rgb", kinds.Float3)
    surface.CreateInput("diffuseColor", kinds.Color3f).ConnectToSource(color)
    seen = surface.CreateOutput("surface", kinds.Token)
    material.CreateSurfaceOutput().ConnectToSource(seen)
    UsdShade.MaterialBindingAPI.Apply(shape.GetPrim()).Bind(material)
