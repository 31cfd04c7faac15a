"""Label files as the tools themselves write them, what other libraries make of ours, and errors."""

from __future__ import annotations

import base64
import json
import pickle
import zlib

import cv2
import numpy as np
import pytest

from posewarper.data.formats import load_labels, load_track_names, save_labels
from posewarper.data.formats.label_file import boxes_of_joints
from posewarper.data.formats.label_studio import image_path
from posewarper.data.tables import Frames, People, PoseDataset, Video
from posewarper.data.video import FrameSource
from posewarper.skeleton import Skeleton

# Files of pandas 3.1 with PyTables 3.11, compressed: DeepLabCut's labels (layout "fixed") and
# predictions (layout "table").
PANDAS_LABELS = (
    "c-rk;O-vg{6yCLgF5sllkd~xsgZiVos<3tlRo$vp>?9DQ60nRDk&{{M1-960%WEh|RhuKdRaFl;=E#vFM-Dw8^;oGw>L"
    "tfYJ(MF=57fK+X1zP!owW@ntTIES@yx!NH=cPv-@LcZkE#39R|aklaC#90u7?}q?Bx_nJnd}b=SxuYQ13v!8^Zm4#<Nl"
    "AAA<SE!e;vg^k*|uQ#$o2Q81r_KC>1$R$j%Dno1fHxCm`5Plq8VU125ntx{Xdl@v`=)KyC^6CLs$26-jrI>L=v@~vx4b"
    "|yPp7hvw%kf{qH<DX6!wb2ROz1if#0?_r^^yWck{!!XNFBpH1r!osO^K%A$*hY_HBCI10^rHrS`bjo<cXnzaH$9(un9S"
    "z9#!ti$jC<2nKLt><W8SWxeV+O$3_A65_XD$jhR-Pm{m}l&TsC)v`QC$m;5RyJ)@wYI{UGV*0qBPS_1;%bxjK2*Y-2rc"
    "$op%C{7%m%AJ1o+^+Vk#RkmIDF3io}=M8Ov(&O|;QD~?7*cs6ZKA-e0&_nLB**OvDBL;m%QVWunt8G_gqo3rnQk6=wV_"
    "d&6PFC~fg6<fgkmDX@r^n+iaw%7<<*H`V_u1&RT2;x{?0kBS6{-cLWbCVeZDPV9mmzC^@wlr7A8AX`#N4J-Rpi>X%lb+"
    "i#hT)<`&SKq<~X$|Z^}iD!Z&Q;wPCZ5C(eHa^pmi=;reWP*ELYFUTB9xA>Oq6rUwc0>4-xSp}YaB(TQWD;q_MKC7H=2p"
    "R^$_6S2v*<ko3NdMrP<d!4Q?;J&!68+1Bs=i=|s>9GAe=?}IYscXZ!VXw=YT$7X{U*GJl?fRDUMQK?s%7yWQRFgO^UsN"
    "g_r<7Jj@pi1DuIitVsDHvod2$EpADp!SP;Lb38wucPu{1bxe8}k$%%xdGTiXm-u)+!}tgyn$ITaod6wmVx+{t%%-)rF9"
    "K?CR3s*<Wz>Q1}>D8L#c`0(pB_^m5y0porW$LqHOl3q2h5zX}Za#gO{ai(D4OjS~IRk`AFKZ;wpyMgod+3`$``-mGKo*"
    "OXwD!ltX_YhzwT*vb~+ym_U<Bi+1fx_(<El2u2OaGh*x$l37xYxCQUs{YfZvbrH&!)ekr~dZa=$Ffd?TS>bX-#nsKRw3"
    "x=@CMYoiqCJ>%KlOF@0`9pT!RJnWyf1A>tg#_WdIKalTxx7PRy5$9N`pe~h2%aY%do%uj!Dd~FTl&?)HmmZOzG>93c4x"
    "@h@owRo@hZ2YZr9yi-*N}LyU80ST8#d%FT7Y((B&+T?DLY2>NBKVszJJ&@!2c87e&&ArsD_HJcx5=G8`&?O-z32DCC(Z"
    "t`U3{|1{3I2hxaVh%KLoqdaeihi(D|7t&g;JAlaI#vl$&(AEvQG|qtoH{7!n_`_zbg?b~`yp#et-q#Cn{9_aJtBao~4>"
    "vXhqu2jcg($oD@Q^IkXBv0N<Y*HKQX$tBGO$0&F#VU3TF;~TKd7ngOezjQoDySENd<?Q=NV`rH^W_Ye$Johuhb1mEp56"
    "$D_o;TeK1@pZj!=Pxs?+x+X6~gbp_X+XDIdZOTyq+Og&pu&iywCX;IA`&to--LQ$M_I`kH0>l+tD?sU)-Y8VgLN>eL5X"
    "}uXXR^VB^DZ{hal^9v-`6$=~E4H+dT70-;|=QBuEL{JnTae=oN0@BQM<v^Wg?KKCn&^9L&bJK8LVwlr|3`QI=hZ|(c<!"
    "-yL~Wpd=y-_*J1e}7~7-$3PmQ$Y8&yB-r0`{#k_@q@4jZaezC)%d~hfzoS?<Bl<|x=qI`W5DR?XLLFoFMa+coeuvVX$="
    "J($6by%O!xBaf3W*zpz`b<xCbWm&a-!BAJfrR?c-6P>?1Db`wGVWL$tN^-&lymb3{Bx#PbQ_xz$F*{D_zz5%VKreniZV"
    "Z1aO0Y)ZuqS!=XSxoEH@`YrY@^vHuAdC*UI(A)YEu|DLnKIE}J<gq^Fu|DLnKGeKEEI<2!%Ria-n5RB*tLAuDvtP5{x4"
    "rfI&j_{*%ulqQXI{K-wmbhF;NOAHGYc?L^i#S#$ANC?3p(8)*4J@59sd3M-W1C-zcO(kbbfIlo?<Usiv#@=aeJeV*~@O"
    "nfsR=mDClt@be1?!xAppj>2(J<Xz8Ip4x+~?{tZ-|!ij_WxC5AIXNK<Y@&6OFKj-tl9bVX7pL{CNi4T0@bwDS4?UU~Xx"
    "=P~Z;vmvLu(*&14)To)b=zM4$Lu9Vj{XOnhTLf"
)
PANDAS_PREDICTIONS = (
    "c-rmRO>@&m7{GDafy5OKgtwML51cxgPV2E9lQ<`m7N^NfNHR%K=}A>$CGp_c9!p8djU)XAy>y0SkNpT7d+bNx*dvD?dg"
    "x5LyLu!`j$s15bcX*A$fDIgD_Q&U$newhgQZFPwry#Jf_1@~veHh)i#xf@aeV#<DRWXjm-5$qTt9Bk-IDq#>HqFnbo@%"
    "{w>KLN-THJ$e4Ur$QCYC?AzE%MZs_u{9LMwN_k6ZpbI<*;6&|>UtsrQ1_LF(J@SfMbD)V)CUKg#q$^6!<W_x9ORZU>)`"
    "c$+Q^5(a0H=Sx%u)bMc+}e_M7gOuz+s*Yy8=3Y6^UG;$Zmq1Znf7C;_LWju?xQa4Z<+QR-)}E|z1rAvm)18QE^fPTim#"
    "R`5_fIn`Ygyodv@`B>+|Q!tWVbGV133}<X}A8F7$TVerg^r|HtcYt*t-EnbjgLWb@Iq950VEM(5e*hM(8}Z=Wlg_C2rD"
    "^a3|L>G`H!$6ZRr?e)Dw-;HNmI{uQ0H)jUnCVnav@AZ1Vx`J+Gx+=;{jpJLLrvKF4?Y0AnSARZD&%1W7Y)`M0ZO62<dl"
    "ftERc)_i#m{v)^LdWF_K_b9I@JB$9`4VPRy*zP?i07HJB>RmT90#4e^*R@oo>gC?$LYd2T^}t=FZ$-#a4e&Kb(#q+Uow"
    "C9lJMUJE7NV+r66Ys2jhhZhY4EruVD%{*1k^Do^a*oT{v6D%-6me!F$h?KbV+ygFMcC#RiGH}KWXR_uM<S*1D%)OEVA%"
    "1pM-^iYfH98bmG(-(=t<C~E>6F!%%GvW1AU2^UDp-LTHEe}=d@Tz*Y>SsJ;MXN01HEEu2(+fR4T1SVSARe#r;qfY+o#!"
    "2|<M#cYX`fHEUrWX@zRpLcz2DjGHuZ~)HJGRA_4H_a>8pBXJxxS${eHI}MD5e}6@>lPZkWE#gqeYD|Jc`4Z>kXI@P*7i"
    "noH(wTz}QX9kyH(>c$^T+(=>ynRx3B{lw4ny!{OB=cOE9ly$k+jmP7c^msJYc<AZgRMXw*s1+UP`L2dZ&Cg)B+xPo=!h"
    "3qTwvJoPBd;Ckx$ikU-R4Qp>xb%4%{*tf+wC_4y#l<z(ffz37J~Ees2#ReqLn^x2SKvx%jSv|J2<;`tLD^<9hBrb<We6"
    "jCvRlATvU-C`aU+MzIo|0pQ{rGsx;S&b8l)4vsaDkzmV^3IrIEv|G#@biK$((YNzu3Og~k#&yPiSR*?G|%jch6kD46IE"
    "m-f82h3Y)>V5Oom8ky3*yz0ee3BgfKF*tGtEIVj%=g*-aA~En`oJx_Yl{yXqxPwIeh%_*I<At5yPS#}p1<k%V(Pj}E32"
    "!+bN}u8&ZOE~2G@_{-?R?S_ER45KJY{pgME4;^Z7%6-|wrq4O!+l(s^G#-=G7%wmv(PucI_wF=@IQr|B7!rfVu^-P3tY"
    "<*z8~p6CrL?9F8=(`mY{&dw)i<1Ag)88p;;RuZS{W|Pc4sH-QLyAoyTn!F8!I$=jmrEWIK+=IG$lDVZWxpsZ1ayCibsm"
    "i*f?o#&sZsc=4^g}OsuA}pA9Dj3Ed^3Ji93I!bcGnAMYpMA#Zsz6M=K6PAZ<&wz)W3V>MtrY+eL8wQ|8^&Pd@LOuu+;$"
    "o@PYZ`epJ4a@=qyWOZk_Se@pq#{p^2><fXhI<@iGOeYYU>wv<IFFH1Qk<y9%KNqJq$8&cks@?$AKSzzn{00000000000"
    "00000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
    "0000000000000N{N71vgv=j{"
)


def unpack(text, path):
    path.write_bytes(zlib.decompress(base64.b85decode(text)))
    return path


def write(path, text):
    path.write_text(text, encoding="utf-8")
    return path


def one_animal(video, numbers, *, size=(64, 48)):
    """A nose and a tail in some frames of one video."""
    points = np.array([[[10 + n, 12, 2], [30, 20 + n, 2]] for n in range(len(numbers))], float)
    frames = Frames.make((video,), [0] * len(numbers), numbers, size_wh=size)
    people = People.make(range(len(numbers)), points, boxes_of_joints(points))
    return PoseDataset(Skeleton("mouse", ("nose", "tail")), (video,), frames, people)


def film(path, frames=12):
    """A video of 64x48 whose frame n has the grey value 20 n."""
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), 10, (64, 48))
    for number in range(frames):
        writer.write(np.full((48, 64, 3), 20 * number, np.uint8))
    writer.release()
    return path


# DeepLabCut


def test_hdf_files_of_pandas(tmp_path):
    pytest.importorskip("h5py")
    labels = load_labels(unpack(PANDAS_LABELS, tmp_path / "CollectedData_rick.h5"))
    assert labels.skeleton.joints == ("tail", "nose")
    assert labels.frames.file_name == tuple(f"labeled-data/clip/img0{n}.png" for n in ("03", "10"))
    expected = [[[1.5, 2, 2], [0, 0, 0]], [[3, 4, 2], [5, 6.25, 2]]]
    np.testing.assert_array_equal(labels.people.keypoints, expected)

    path = unpack(PANDAS_PREDICTIONS, tmp_path / "clipDLC_net.h5")
    found = load_labels(path)
    assert found.videos[0].name == "clip" and load_track_names(path) == {0: "b", 1: "a"}
    values = (np.arange(24) / 4).reshape(4, 2, 3)
    np.testing.assert_array_equal(found.people.keypoints[..., :2], values[..., :2])
    np.testing.assert_array_equal(found.people.joint_scores, values[..., 2])
    np.testing.assert_array_equal(found.frames.number[found.people.frame], [0, 0, 1, 1])


def test_hdf_blocks_that_are_not_transposed(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = unpack(PANDAS_LABELS, tmp_path / "CollectedData_rick.h5")
    before = load_labels(path).people.keypoints
    with h5py.File(path, "a") as file:
        group = file["df_with_missing"]
        values = group["block0_values"][()]
        del group["block0_values"]
        group["block0_values"] = values.T
    np.testing.assert_array_equal(load_labels(path).people.keypoints, before)


def test_pandas_reads_what_is_written(tmp_path):
    """Needs PyTables, which the project does not: it is tried where somebody has it."""
    pytest.importorskip("h5py")
    pytest.importorskip("tables")
    import pandas

    data = one_animal(Video("clip", 12, 0, "", "clip.mp4"), [2, 11])
    save_labels(data, tmp_path / "a.h5")
    table = pandas.read_hdf(tmp_path / "a.h5")
    assert table.columns.names == ["scorer", "bodyparts", "coords"]
    assert table.index.tolist() == [("labeled-data", "clip", f"img{n:02d}.png") for n in (2, 11)]
    expected = data.people.keypoints[..., :2].reshape(2, 4)
    np.testing.assert_array_equal(table.to_numpy(), expected)


class Evil:
    def __reduce__(self):
        return print, ("this must not run",)


def test_hdf_files_are_not_unpickled(tmp_path, capsys):
    h5py = pytest.importorskip("h5py")
    path = unpack(PANDAS_PREDICTIONS, tmp_path / "evil.h5")
    with h5py.File(path, "a") as file:
        file["df_with_missing/table"].attrs["values_block_0_kind"] = np.bytes_(
            pickle.dumps([Evil()], protocol=0)
        )
    with pytest.raises(ValueError, match=r"evil.h5: .*it holds an object of type .*print"):
        load_labels(path)
    assert "must not run" not in capsys.readouterr().out


DLC = """scorer,,,me,me,me,me
bodyparts,,,nose,nose,tail,tail
coords,,,x,y,x,y
labeled-data,clip,img0004.png,1.5,2.5,,
labeled-data,clip,img0010.png,,,3,4
labeled-data,clip,img0011.png,,,,
"""


def test_deeplabcut_labels_find_their_video(tmp_path):
    path = write(tmp_path / "CollectedData_me.csv", DLC)
    labels = load_labels(path)
    assert labels.videos == (Video("labeled-data/clip", 12, 0, "img%04d.png"),)
    np.testing.assert_array_equal(labels.frames.labelled, [True, True, False])
    clip = film(tmp_path / "clip.mp4")
    attached = load_labels(path, video=clip)
    assert attached.videos[0].frame_count == 12 and attached.videos[0].is_file
    np.testing.assert_array_equal(attached.frames.number, [4, 10, 11])
    np.testing.assert_array_equal(attached.frames.size_wh, [(64, 48)] * 3)
    image = FrameSource(tmp_path).read(attached.videos[0], int(attached.frames.number[1]))
    assert abs(float(image.mean()) - 200) < 5


def test_deeplabcut_with_individuals_and_windows_paths(tmp_path):
    text = (
        "scorer,me,me,me,me,me,me\nindividuals,m1,m1,m2,m2,single,single\n"
        "bodyparts,nose,nose,nose,nose,corner,corner\ncoords,x,y,x,y,x,y\n"
        "labeled-data\\clip\\img7.png,1,2,3,4,5,6\n"
    )
    path = write(tmp_path / "two.csv", text)
    labels = load_labels(path)
    assert labels.skeleton.joints == ("nose", "corner")
    assert labels.frames.file_name == ("labeled-data/clip/img7.png",)
    assert load_track_names(path) == {0: "m1", 1: "m2", 2: "single"}
    np.testing.assert_array_equal(labels.people.keypoints[..., 2], [[2, 0], [2, 0], [0, 2]])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("1.5,2.5", "1.5,", r"img0004.png: joint 'nose' has only one of x and y"),
        ("1.5,2.5", "a,2.5", r"row 4: expected a number, got 'a'"),
        ("3,4\n", "3\n", r"row 5: expected 7 cells, got 6"),
        ("coords", "coord", r"no table of DeepLabCut: expected rows 'scorer'"),
        ("x,y,x,y", "x,y,x,z", r"expected x, y or likelihood, got 'z'"),
        ("img0010", "img0004", r"labeled-data/clip/img0004.png is listed twice"),
        ("1.5,2.5,,\n", ",,,\n", None),
    ],
)
def test_damaged_deeplabcut_files(old, new, message, tmp_path):
    path = write(tmp_path / "labels.csv", DLC.replace(old, new, 1))
    if message is None:
        assert len(load_labels(path).people) == 1
        return
    with pytest.raises(ValueError, match=r"labels.csv: .*" + message):
        load_labels(path)


# SLEAP and NWB


def test_what_sleap_means(tmp_path):
    """Invisible points are not labelled, users' labels replace predictions, frames of embedded
    images have the numbers of the video."""
    sio = pytest.importorskip("sleap_io")
    skeleton = sio.Skeleton(["nose", "a", "b"], [("nose", "a")], [("b", "a")], name="mouse")
    tracks = [sio.Track("bob"), sio.Track("ann")]
    places = np.array([[1.0, 2], [3, 4], [5, 6]])
    user = sio.Instance.from_numpy(places, skeleton=skeleton, track=tracks[1])
    user.points["visible"][1] = False
    old, other = (
        sio.PredictedInstance.from_numpy(
            places + 9, skeleton=skeleton, track=track, point_scores=np.full(3, 0.5), score=0.75
        )
        for track in tracks[::-1]
    )
    video = sio.Video(filename=str(film(tmp_path / "clip.mp4")))
    listed = [
        sio.LabeledFrame(video=video, frame_idx=7, instances=[old, user, other]),
        sio.LabeledFrame(video=video, frame_idx=9, instances=[]),
        sio.LabeledFrame(video=video, frame_idx=3, instances=[], is_negative=True),
    ]
    project = sio.Labels(listed, videos=[video], tracks=tracks, skeletons=[skeleton])
    for name, embed in (("labels.slp", False), ("labels.pkg.slp", "user")):
        sio.save_slp(project, str(tmp_path / name), embed=embed, verbose=False)
        found = load_labels(tmp_path / name)
        assert load_track_names(tmp_path / name) == {0: "bob", 1: "ann"}
        assert found.skeleton == Skeleton("mouse", ("nose", "a", "b"), ((1, 2),), ((0, 1),))
        assert found.videos[0].path == (tmp_path / "clip.mp4").as_posix()
        seven = int(np.flatnonzero(found.frames.number == 7)[0])
        assert found.frames.labelled[seven] and (found.people.frame == seven).all()
        np.testing.assert_array_equal(found.people.track_id, [1, 0])
        np.testing.assert_array_equal(found.people.predicted, [False, True])
        np.testing.assert_array_equal(found.people.keypoints[0, :, 2], [2, 0, 2])
        np.testing.assert_array_equal(found.people.keypoints[1, :, :2], places + 9)
        assert found.people.score[1] == 0.75
        if not embed:
            assert found.videos[0].frame_count == 12
            np.testing.assert_array_equal(found.frames.number, [3, 7, 9])
            np.testing.assert_array_equal(found.frames.labelled, [True, True, False])


def test_other_libraries_read_what_is_written(tmp_path):
    sio = pytest.importorskip("sleap_io")
    data = one_animal(Video("clip", 12, 0, "", "clip.mp4"), [2, 11])
    for name, read in [
        ("labels.slp", sio.load_slp),
        ("labels.nwb", sio.load_nwb),
        ("labels.csv", sio.load_csv),
        ("labels.json", sio.load_labelstudio),
    ]:
        more = {"format": "label-studio"} if name == "labels.json" else {}
        save_labels(data, tmp_path / name, **more)
        project = read(str(tmp_path / name))
        assert [frame.frame_idx for frame in project] == [2, 11], name
        for frame, expected in zip(project, data.people.keypoints, strict=True):
            assert frame.video.filename == "clip.mp4"
            (instance,) = frame.instances
            for joint, place in zip(("nose", "tail"), expected[:, :2], strict=True):
                np.testing.assert_allclose(instance[joint]["xy"], place, atol=1e-9)


def test_sleap_reads_deeplabcut_labels_that_were_written_here(tmp_path):
    sio = pytest.importorskip("sleap_io")
    folder = tmp_path / "labeled-data" / "clip"
    folder.mkdir(parents=True)
    for number in (2, 11):
        cv2.imwrite(str(folder / f"img{number:02d}.png"), np.zeros((48, 64, 3), np.uint8))
    data = one_animal(Video("clip", 12, 0, "", "clip.mp4"), [2, 11])
    save_labels(data, tmp_path / "CollectedData_me.csv", format="deeplabcut")
    project = sio.load_file(str(tmp_path / "CollectedData_me.csv"))
    found = [frame.instances[0]["nose"]["xy"].tolist() for frame in project]
    assert found == data.people.keypoints[:, 0, :2].tolist()


@pytest.mark.parametrize("name", ["labels.slp", "labels.nwb"])
def test_folders_that_do_not_start_at_0(name, tmp_path):
    pytest.importorskip("sleap_io")
    data = one_animal(Video("a", 6, 5, "%04d.png"), [5, 7])
    save_labels(data, tmp_path / name)  # of images that are not there, only the labelled ones
    found = load_labels(tmp_path / name)
    assert found.videos == (Video("a", 8, 0, "%04d.png"),)
    np.testing.assert_array_equal(found.frames.number, [5, 7])
    (tmp_path / "a").mkdir()
    for number in range(5, 11):
        (tmp_path / "a" / f"{number:04d}.png").touch()
    save_labels(data, tmp_path / name)
    found = load_labels(tmp_path / name)
    assert found.videos == data.videos
    np.testing.assert_array_equal(found.frames.number, [5, 7])


def test_lists_of_images_with_gaps(tmp_path):
    sio = pytest.importorskip("sleap_io")
    names = ["a/0005.png", "a/0007.png", "a/0012.png"]
    metadata = {"type": "ImageVideo", "filename": names[0], "filenames": names, "shape": None}
    video = sio.Video(filename=names, backend_metadata=metadata, open_backend=False)
    skeleton = sio.Skeleton(["nose"])
    animal = sio.Instance.from_numpy(np.ones((1, 2)), skeleton=skeleton)
    listed = [sio.LabeledFrame(video=video, frame_idx=1, instances=[animal])]
    project = sio.Labels(listed, videos=[video], skeletons=[skeleton])
    sio.save_slp(project, str(tmp_path / "a.slp"), embed=False, verbose=False)
    found = load_labels(tmp_path / "a.slp")
    assert found.videos == (Video("a", 13, 0, "%04d.png"),)
    assert found.frames.file_name == ("a/0007.png",)


def test_hidden_nodes_of_nwb_are_not_labelled(tmp_path):
    h5py = pytest.importorskip("h5py")
    pytest.importorskip("sleap_io")
    data = one_animal(Video("clip", 12, 0, "", "clip.mp4"), [2])
    save_labels(data, tmp_path / "a.nwb")
    with h5py.File(tmp_path / "a.nwb", "a") as file:
        found = []
        file.visititems(lambda name, _: found.append(name) if "node_visibility" in name else None)
        (name,) = found
        file[name][0] = False
    points = load_labels(tmp_path / "a.nwb").people.keypoints
    np.testing.assert_array_equal(points[0, :, 2], [0, 2])


def test_nwb_labels_that_are_not_flat(tmp_path):
    h5py = pytest.importorskip("h5py")
    pytest.importorskip("pynwb")
    save_labels(one_animal(Video("clip", 12, 0, "", "clip.mp4"), [2]), tmp_path / "a.nwb")
    with h5py.File(tmp_path / "a.nwb", "a") as file:
        group = file["processing/behavior/PoseTraining/training_frames/frame_0"]
        animal = group["skeleton_instances/instance_0"]
        del animal["node_locations"]
        animal["node_locations"] = np.zeros((2, 3))
    with pytest.raises(ValueError, match=r"a.nwb: .*instance_0: expected x and y of 2 joints"):
        load_labels(tmp_path / "a.nwb")
    with h5py.File(tmp_path / "a.nwb", "a") as file:
        del file["processing/behavior/PoseTraining/source_videos/video_0/external_file"]
    with pytest.raises(ValueError, match=r"a.nwb: cannot be read as an NWB file: .*external_file"):
        load_labels(tmp_path / "a.nwb")


def test_nwb_without_labels(tmp_path):
    pynwb = pytest.importorskip("pynwb")
    from datetime import datetime, timezone

    path = tmp_path / "session.nwb"
    start = datetime(2026, 1, 1, tzinfo=timezone.utc)
    with pynwb.NWBHDF5IO(str(path), "w") as file:
        file.write(pynwb.NWBFile("a session", "x", start))
    with pytest.raises(ValueError, match=r"session.nwb: expected PoseTraining"):
        load_labels(path)


# Label Studio


def studio_point(key, label, x, y, **more):
    value = {"x": x, "y": y, "width": 0.4, "keypointlabels": [label]}
    size = {"original_width": 200, "original_height": 50, "image_rotation": 0}
    return {"id": key, "type": "keypointlabels", "value": value, "to_name": "img", **size, **more}


def studio_box(key, **value):
    point = studio_point(key, "", 0, 0)
    value = {"x": 0, "y": 0, "width": 50, "height": 50, "rectanglelabels": ["mouse"], **value}
    return {**point, "type": "rectanglelabels", "value": value}


def studio_task(i, url, *annotations):
    results = [{"id": 1, "result": result, "was_cancelled": False} for result in annotations]
    return {"id": i, "data": {"img": url}, "annotations": results, "predictions": []}


def test_label_studio_export(tmp_path):
    tasks = [
        studio_task(1, "/data/upload/4/0a1b2c3d-f_012.png", [studio_point("p", "tail", 50, 10)]),
        studio_task(
            2,
            "/data/upload/4/9f1b2c3d-f_007.png",
            [
                studio_box("m"),
                studio_box("n", width=100, height=100),
                studio_point("a", "nose", 1, 2, parentID="m"),
                studio_point("b", "nose", 3, 4),
                studio_point("c", "tail", 5, 6),
                {"type": "relation", "from_id": "b", "to_id": "n", "direction": "right"},
                {"type": "relation", "from_id": "n", "to_id": "c", "direction": "right"},
            ],
        ),
        studio_task(3, "/data/upload/4/9f1b2c3d-f_009.png", []),
        studio_task(4, "/data/upload/4/9f1b2c3d-f_010.png"),
    ]
    found = load_labels(write(tmp_path / "export.json", json.dumps(tasks)))
    assert found.skeleton.joints == ("tail", "nose")
    np.testing.assert_array_equal(found.frames.number, [7, 9, 10, 12])
    np.testing.assert_array_equal(found.frames.labelled, [True, True, False, True])
    np.testing.assert_array_equal(found.people.frame, [0, 0, 3])
    expected = [[[0, 0, 0], [2, 1, 2]], [[10, 3, 2], [6, 2, 2]], [[100, 5, 2], [0, 0, 0]]]
    np.testing.assert_allclose(found.people.keypoints, expected, atol=1e-12)
    np.testing.assert_allclose(found.people.bbox[0], [0, 0, 100, 25])
    np.testing.assert_allclose(found.people.bbox[1], boxes_of_joints(np.array(expected))[1])


def test_addresses_of_label_studio():
    for url, path in [
        ("/data/local-files/?d=mice/a/7.png", "mice/a/7.png"),
        ("/data/upload/3/0a1b2c3d-my%20mouse-7.png", "my mouse-7.png"),
        ("s3://bucket/mice/7.png", "mice/7.png"),
        ("https://host/mice/7.png?x=1", "mice/7.png"),
        ("mice/7.png", "mice/7.png"),
    ]:
        assert image_path(url) == path


def test_damaged_label_studio_files(tmp_path):
    def check(task, message):
        path = write(tmp_path / "tasks.json", json.dumps([task]))
        with pytest.raises(ValueError, match=r"tasks.json: " + message):
            load_labels(path)

    point = studio_point("a", "nose", 1, 2)
    check(studio_task(8, "a.png", [point, {**point, "id": "b"}]), "task 8: joint 'nose' of one")
    check(studio_task(8, "a.png", [{**point, "original_width": 0}]), "task 8: 'original_width'")
    check(studio_task(8, "a.png", [{**point, "image_rotation": 90}]), "task 8: .*rotated")
    check(studio_task(8, "film.xyz", [point]), "task 8: 'data' names no image")
    check(studio_task(8, "a.png", []), "no key points")
    with pytest.warns(UserWarning, match="task 8 has 2 annotations"):
        path = write(tmp_path / "two.json", json.dumps([studio_task(8, "a.png", [point], [point])]))
        assert len(load_labels(path).people) == 1
    data = one_animal(Video("a", 3), [1], size=(0, 0))
    with pytest.raises(ValueError, match=r"percentages .* 1 of 1 frames is not known"):
        save_labels(data, tmp_path / "new.json", format="label-studio")


# Plain tables


def test_csv_of_sleap(tmp_path):
    text = (
        "track,frame_idx,instance.score,tail.x,tail.y,tail.score,nose.x,nose.y,nose.score\n"
        "bob,4,0.5,1,2,0.25,,,\nann,4,0.5,3,4,0.5,5,6,0.75\n"
    )
    found = load_labels(write(tmp_path / "clip.csv", text))
    assert found.skeleton.joints == ("tail", "nose") and found.videos[0].name == "clip"
    np.testing.assert_array_equal(found.people.track_id, [0, 1])
    np.testing.assert_array_equal(found.people.joint_scores, [[0.25, np.nan], [0.5, 0.75]])
    np.testing.assert_array_equal(found.people.keypoints[0], [[1, 2, 2], [0, 0, 0]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("frame_idx,track,a.x,a.y\n1,b,1,2\n1,b,3,4\n", "track 'b' occurs twice in frame 1 of"),
        ("frame_idx,a.x,a.y\n1,1,\n", "row 2: joint 'a' has only one of x and y"),
        ("frame_idx,a.x,a.y\n1,1,u\n", "row 2: a.y: expected a number, got 'u'"),
        ("frame_idx,a.x,a.y\n1.5,1,1\n", "row 2: frame_idx: expected the number of a frame"),
        ("frame_idx,a.x,b.y\n1,1,1\n", "expected a table with a column 'frame_idx'"),
        ("frame_idx,a.x,a.y\n", "expected a table .*got no rows"),
        ("", "expected a table .*got no rows"),
    ],
)
def test_damaged_tables(text, message, tmp_path):
    with pytest.raises(ValueError, match=r"labels.csv: .*" + message):
        load_labels(write(tmp_path / "labels.csv", text))
